"""What is named of a machine: all that decides which kernels compute, and nothing that changes without a bit changing."""

from __future__ import annotations

import pytest

from service.building.environment import driver_version, environment_of
from service.config import kernel_variables

EPYC = """\
processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 17
model name	: AMD EPYC
cpu MHz		: 2445.404
cache size	: 1024 KB
flags		: fpu sse sse2 ssse3 fma f16c avx avx2 avx512f avx512_bf16 smep md_clear
power management:

processor	: 1
vendor_id	: AuthenticAMD
cpu MHz		: 3675.001
"""
GRAVITON = """\
processor	: 0
BogoMIPS	: 2100.00
Features	: fp asimd asimddp sve bf16 i8mm
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd4f
"""


def named(cpuinfo: str, **variables: str) -> dict[str, str]:
    return environment_of("cpu", variables, cpuinfo)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("avx512_bf16", "avx512_bf16 amx_tile amx_bf16"),
        ("avx512f avx512_bf16", ""),
        ("AuthenticAMD", "GenuineIntel"),
        ("cpu family	: 25", "cpu family	: 26"),
        ("model		: 17", "model		: 1"),
        ("cache size	: 1024 KB", "cache size	: 512 KB"),
    ],
    ids=["matrix units", "no AVX-512", "vendor", "family", "model", "cache"],
)
def test_processors_of_one_name_with_other_kernels_are_other_environments(old: str, new: str) -> None:
    assert EPYC.count(old) >= 1
    other = EPYC.replace(old, new)
    assert "AMD EPYC" in other
    assert named(other) != named(EPYC)


@pytest.mark.parametrize(("old", "new"), [("sve", "sve sve2"), ("0xd4f", "0xd40")], ids=["instructions", "part"])
def test_arm_processors_are_told_apart_too(old: str, new: str) -> None:
    assert named(GRAVITON.replace(old, new)) != named(GRAVITON)
    assert "sve" in named(GRAVITON)["instructions"]


def test_what_changes_no_bit_is_not_named() -> None:
    later = EPYC.replace("2445.404", "3675.001").replace("smep md_clear", "md_clear smep ibpb_exit_to_user")
    assert named(later) == named(EPYC)
    assert named(EPYC.replace("avx avx2", "avx2 avx")) == named(EPYC)


def test_a_variable_that_chooses_kernels_is_another_environment() -> None:
    plain: dict[str, str] = {}
    other, third = {"MKL_CBWR": "COMPATIBLE"}, {"MKL_CBWR": "AVX2"}
    assert len({named(EPYC, **variables)["variables"] for variables in (plain, other, third)}) == 3
    assert named(EPYC, **other) == named(EPYC, **other)
    assert named(EPYC, A="1", B="2") == named(EPYC, B="2", A="1")


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OPENBLAS_CORETYPE"])
def test_of_a_processes_variables_those_that_choose_kernels_are_taken(name: str) -> None:
    given = {name: "default", "MKL_CBWR": "", "OMP_NUM_THREADS": "2", "ONEDNN_VERBOSE": "1", "HOME": "/home/ann"}
    assert kernel_variables(given) == {name: "default"}


def test_this_machine_is_described_in_short_words_and_the_same_again() -> None:
    here = environment_of("cpu", kernel_variables())
    assert here == environment_of("cpu", kernel_variables())
    assert here["processor"]
    assert here["kernels"]
    assert all(len(value) < 1000 for value in here.values())


def test_a_processor_that_nothing_is_known_of_has_an_environment() -> None:
    assert named("")["processor"] == ""


# GPUs

H200 = {
    "name": "NVIDIA H200",
    "capability": "9.0",
    "driver": "570.86.15",
    "cuda": "12.8",
    "libraries": "nvidia-cudnn=9",
}


def test_a_processors_environment_has_nothing_of_a_gpu_and_is_named_as_before() -> None:
    here = named(EPYC)
    assert here["device"] == "cpu"
    assert list(here) == [
        *("platform", "processor", "instructions", "kernels", "math", "variables", "device", "python"),
        *("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy"),
    ]


@pytest.mark.parametrize("fact", list(H200))
def test_another_gpu_driver_or_library_is_another_environment(fact: str) -> None:
    one, other = (environment_of("cuda:0", {}, EPYC, gpu) for gpu in (H200, {**H200, fact: "another"}))
    assert one != other
    assert one["device"] == "NVIDIA H200"
    assert one == environment_of("cuda:1", {}, EPYC, H200)  # which of two alike changes no bit


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)",
            "570.86.15",
        ),
        ("", ""),
    ],
)
def test_the_drivers_version_is_read_from_what_linux_tells(told: str, version: str) -> None:
    assert driver_version(told) == version


@pytest.mark.gpu
def test_the_gpu_that_is_here_is_described_and_the_same_again() -> None:
    here = environment_of("cuda:0", kernel_variables())
    assert here == environment_of("cuda:0", kernel_variables())
    assert here["gpu driver"]
    assert here["gpu cuda"]
    assert all(len(value) < 2000 for value in here.values())

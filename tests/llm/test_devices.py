"""What `auto` comes to, on machines that are described here."""

from __future__ import annotations

import pytest

from service.errors import InvalidSetting
from service.llm.devices import Computing, Gpu, SeenDevices, choose_computing

H200 = Gpu("NVIDIA H200", (9, 0), 140 * 2**30)
T4 = Gpu("Tesla T4", (7, 5), 15 * 2**30)
NONE = SeenDevices()
ONE = SeenDevices((H200,), built=True)
TWO = SeenDevices((H200, H200), built=True)


def chosen(seen: SeenDevices, device: str = "auto", dtype: str = "auto", train: str = "auto") -> tuple[str, str, str]:
    found = choose_computing(device, dtype, train, seen)
    return found.device, found.dtype, found.train_device


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (NONE, ("cpu", "float32", "cpu")),
        (SeenDevices((), built=True), ("cpu", "float32", "cpu")),
        (ONE, ("cuda:0", "bfloat16", "cuda:0")),
        (SeenDevices((T4,), built=True), ("cuda:0", "float32", "cuda:0")),
        (TWO, ("cuda:0", "bfloat16", "cuda:1")),
        # What trains names what is stored: it is of the kind that serves, or it is what serves.
        (SeenDevices((H200, T4), built=True), ("cuda:0", "bfloat16", "cuda:0")),
        (SeenDevices((T4, H200, H200), built=True), ("cuda:0", "float32", "cuda:0")),
    ],
)
def test_auto_is_the_first_gpu_and_trains_on_another_of_its_kind(
    seen: SeenDevices, expected: tuple[str, str, str]
) -> None:
    assert chosen(seen) == expected


def test_what_is_set_is_taken() -> None:
    assert chosen(TWO, "cuda:1") == ("cuda:1", "bfloat16", "cuda:0")
    assert chosen(TWO, "cuda") == ("cuda:0", "bfloat16", "cuda:1")
    assert chosen(TWO, "cuda:1", train="cuda:1") == ("cuda:1", "bfloat16", "cuda:1")
    assert chosen(ONE, "cpu") == ("cpu", "float32", "cpu")
    assert chosen(ONE, "auto", "float16", "cpu") == ("cuda:0", "float16", "cpu")
    assert chosen(ONE, "cpu", train="cuda") == ("cpu", "float32", "cuda:0")


@pytest.mark.parametrize(
    ("seen", "device", "train", "said"),
    [
        (ONE, "cuda:1", "auto", "LETHE_DEVICE names cuda:1, but torch sees 1 GPU"),
        (NONE, "cuda", "auto", "LETHE_DEVICE names cuda, but this torch was built without CUDA"),
        (SeenDevices((), built=True), "cuda", "auto", "but torch sees no GPU"),
        (ONE, "auto", "cuda:3", "LETHE_TRAIN_DEVICE names cuda:3"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(seen: SeenDevices, device: str, train: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        choose_computing(device, "auto", train, seen)


def test_the_choice_says_why() -> None:
    assert choose_computing("auto", "auto", "auto", NONE).why == (
        "cpu, as this torch was built without CUDA; float32, as on every processor; training on the same device"
    )
    assert (
        "cuda:0 (NVIDIA H200), the first GPU that torch sees; bfloat16"
        in choose_computing("auto", "auto", "auto", TWO).why
    )


def test_training_shares_a_gpu_only_with_serving_on_it() -> None:
    assert choose_computing("auto", "auto", "auto", ONE).shares_a_gpu
    assert not choose_computing("auto", "auto", "auto", TWO).shares_a_gpu
    assert not Computing("cpu", "float32", "cpu", "").shares_a_gpu


@pytest.mark.gpu
def test_a_gpu_that_is_here_is_seen() -> None:
    seen = SeenDevices.look()
    assert seen.gpus
    assert all(gpu.memory > 0 and gpu.name for gpu in seen.gpus)

"""What `pip install .` brings: everything that is served, and nothing of research; and what `pip install ./client` does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"service", "adapters_store"}
RESEARCH_LIBRARIES = {"matplotlib", "jinja2", "implicit", "scipy"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources, so that none of what its making leaves stays here."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in (*OURS, "research"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    return made_of(source, out)


def made_of(source: Path, out: Path) -> zipfile.ZipFile:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)],
        check=True,
    )
    [made] = out.glob("*.whl")
    return zipfile.ZipFile(made)


def asked_by(wheel: zipfile.ZipFile) -> list[str]:
    """The requirements that a wheel states."""
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist") or []


@pytest.mark.thorough
def test_the_wheel_holds_what_is_served_and_nothing_of_research(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == OURS
    assert {"service/py.typed", "adapters_store/py.typed", "service/bundled/demo_people.csv"} <= set(names)
    sources = {str(path.relative_to(ROOT)) for folder in OURS for path in (ROOT / folder).rglob("*.py")}
    assert sources <= set(names)


@pytest.mark.thorough
def test_the_wheel_asks_for_no_library_of_research(wheel: zipfile.ZipFile) -> None:
    asked = asked_by(wheel)
    assert len(asked) > 10
    assert not [line for line in asked if line.lower().startswith(tuple(RESEARCH_LIBRARIES))]


@pytest.mark.thorough
def test_the_client_is_a_wheel_of_its_own_that_needs_two_libraries(tmp_path: Path) -> None:
    source = tmp_path / "client"
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    wheel = made_of(source, tmp_path)
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {
        f"lethe_client/{path.name}" for path in (ROOT / "client" / "lethe_client").iterdir() if path.is_file()
    }
    assert {line.partition(">")[0] for line in asked_by(wheel)} == {"httpx", "pydantic"}

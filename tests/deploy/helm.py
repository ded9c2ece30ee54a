"""Helm, where there is one: the program on PATH, or else its engine from the wheel `helm-python-sdk`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "lethe"
RELEASE, NAMESPACE = "lethe", "shop"

Values = Mapping[str, Any]
Manifest = dict[str, Any]

_ENGINE = [sys.executable, str(Path(__file__).with_name("engine.py"))]


class Refused(Exception):
    """The chart does not take these values; the message is what an operator reads."""


def is_here() -> bool:
    return shutil.which("helm") is not None or importlib.util.find_spec("helm_python") is not None


def rendered(*values: Values | str) -> list[Manifest]:
    """All manifests. Of values, a text names a file of the chart; later ones go before earlier ones. Raises Refused."""
    if shutil.which("helm") is None:
        told = _ran([*_ENGINE, "template", str(CHART), RELEASE, NAMESPACE], _merged(values))
    else:
        told = _ran(["helm", "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "-f", "-"], _merged(values))
    return [manifest for manifest in yaml.safe_load_all(told) if manifest is not None]


def linted(*values: Values | str) -> str:
    """What `helm lint --strict` says. Raises Refused where it finds something."""
    if shutil.which("helm") is None:
        return _ran([*_ENGINE, "lint", str(CHART), RELEASE, NAMESPACE], _merged(values))
    return _ran(["helm", "lint", "--strict", str(CHART), "-f", "-"], _merged(values))


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(name of the workload, specification of its pods)"""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """(name, the container)"""
    for _, pod in pods(manifests):
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            yield container["name"], container


def one(manifests: list[Manifest], kind: str, name: str = RELEASE) -> Manifest:
    """The manifest of this kind and name, of which there must be exactly one."""
    (found,) = (m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def container_of(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = (container for of, container in containers(manifests) if of == name)
    return found


def _ran(command: list[str], values: Values) -> str:
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def _merged(values: tuple[Values | str, ...]) -> dict[str, Any]:
    read = (yaml.safe_load((CHART / one).read_text()) if isinstance(one, str) else one for one in values)
    return reduce(_over, read, {})


def _over(under: Values, over: Values) -> dict[str, Any]:
    """As Helm puts one file over another: keys of maps are joined, anything else is replaced."""
    both = {key: _over(under[key], over[key]) for key in under.keys() & over.keys() if _are_maps(under[key], over[key])}
    return {**under, **over, **both}


def _are_maps(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)

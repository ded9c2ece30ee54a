"""What a kubelet would do with a rendered pod, here: folders for volumes, files for secrets, variables, a process."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.deploy.helm import Manifest
from tests.forks import PATIENCE, begin_afresh

POD_IP = "127.0.0.1"

Secrets = Mapping[tuple[str, str], str]  # (name of a Secret, its key) -> what it holds


@dataclass(frozen=True)
class Node:
    """One machine on which all pods of a test run. Everything that they mount lies in `folder`; port 8000 is `port`."""

    folder: Path
    secrets: Secrets
    port: int
    mounted: dict[str, Path] = field(default_factory=dict)  # path within a container -> folder here

    def mount(self, pod: Manifest) -> None:
        """Make the folders that a pod's containers mount, and write the files of its secrets. KeyError: no such Secret."""
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            for mount in container["volumeMounts"]:
                here = self.folder / mount["name"]
                here.mkdir(exist_ok=True)
                self.mounted[mount["mountPath"]] = here
        for name, key, path in _secret_files(pod):
            (self.mounted["/secrets"] / path).write_text(self.secrets[name, key])

    def begin(self, container: Manifest, log: str = "") -> subprocess.Popen[bytes]:
        """The container's own command, which must be `lethe`."""
        assert container["command"] == ["lethe"]
        return self.begin_lethe(container, container["args"], log or container["name"])

    def begin_lethe(self, container: Manifest, arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """`kubectl exec`: another command of Lethe in the container."""
        here = [self._here(argument) for argument in arguments]
        return begin_afresh(here, self.environment(container), self.folder / f"{log}.log")

    def run_lethe(self, container: Manifest, *arguments: str, log: str = "exec") -> int:
        """The exit code of a command that ends by itself."""
        return self.begin_lethe(container, arguments or container["args"], log).wait(PATIENCE)

    def run_probe(self, container: Manifest, probe: Manifest) -> int:
        """The exit code of a probe's or a hook's command."""
        program, *arguments = probe["exec"]["command"]
        # Its image has a `python` in PATH; here it is this one.
        found = sys.executable if program == "python" else shutil.which(program)
        assert found is not None, program
        command = [found, *(argument.replace("8000", str(self.port)) for argument in arguments)]
        done = subprocess.run(
            command, env=self.environment(container), capture_output=True, check=False, timeout=PATIENCE
        )
        return done.returncode

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def environment(self, container: Manifest) -> dict[str, str]:
        """The container's variables over those that this machine needs to find Python and its libraries."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LETHE_", "AWS_"))}
        stated: dict[str, str] = {}
        for entry in container["env"]:
            stated[entry["name"]] = self._here(_value(entry, container, stated))
        # Another server may have port 8000 here.
        return {**inherited, **stated, "LETHE_PORT": str(self.port)}

    def _here(self, text: str) -> str:
        """A path within the container as it is on this machine."""
        for path, folder in self.mounted.items():
            if text == path or text.startswith(f"{path}/"):
                return str(folder) + text.removeprefix(path)
        return text


def _value(entry: Manifest, container: Manifest, stated: Mapping[str, str]) -> str:
    """A variable's value; `$(NAME)` is one that was stated before it."""
    if "value" in entry:
        return re.sub(r"\$\((\w+)\)", lambda found: stated[found[1]], entry["value"])
    (source,) = entry["valueFrom"].items()
    if source == ("fieldRef", {"fieldPath": "status.podIP"}):
        return POD_IP
    assert source == ("resourceFieldRef", {"resource": "requests.cpu"}), source
    return str(_processors(container["resources"]["requests"]["cpu"]))


def _processors(quantity: str | float) -> int:
    """Whole ones, rounded up, as Kubernetes tells them."""
    text = str(quantity)
    return math.ceil(float(text[:-1]) / 1000 if text.endswith("m") else float(text))


def _secret_files(pod: Manifest) -> Iterator[tuple[str, str, str]]:
    """(name, key, file)"""
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            for item in source["secret"]["items"]:
                yield source["secret"]["name"], item["key"], item["path"]

"""Helm's engine, which the wheel `helm-python-sdk` holds, as a program: template or lint, with values on standard input.

A process of its own, because Go's runtime brings threads and signal handlers that no test wants beside its own.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

_WARNING = 2  # a finding's severity


def template(helm: Any, chart_path: str, release: str, namespace: str, values: dict[str, Any]) -> str:
    """The manifests in one stream. Raises HelmError if the schema or a template refuses the values."""
    with helm.Chart.load(chart_path) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=release, namespace=namespace)
    return "\n---\n".join(text for name, text in rendered.items() if name.endswith(".yaml"))


def lint(helm: Any, chart_path: str, namespace: str, values: dict[str, Any]) -> str:
    """All findings, a line each. Ends the process with exit code 1 if one is more than a remark."""
    report = helm.lint(chart_path, values, strict=True, namespace=namespace)
    told = "\n".join(f"{message['path']}: {message['error']}" for message in report["messages"])
    if report["errors"] or any(message["severity"] >= _WARNING for message in report["messages"]):
        sys.exit(f"{told}\n{report['errors']}")
    return told


def main(action: str, chart_path: str, release: str, namespace: str) -> None:
    """Print what was asked for; a refusal is one message and exit code 1."""
    helm, values = importlib.import_module("helm_python"), json.load(sys.stdin)
    try:
        if action == "lint":
            print(lint(helm, chart_path, namespace, values))
        else:
            print(template(helm, chart_path, release, namespace, values))
    except helm.HelmError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Command-line flags made from the settings, so that each has one description and one default."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.config import Settings, load_settings
from service.entrypoints.bootstrap import Home
from service.records import BuildConfig

BUILD_SETTINGS = (
    *BuildConfig.__dataclass_fields__,
    "model",
    "model_revision",
    "dtype",
    "device",
    "train_device",
    "build_processes",
)
DemoOption = Annotated[bool, typer.Option("--demo", help="Import the demo data first, if the ledger holds nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of ledger, store and keys (LETHE_HOME; default: .lethe)")
]


def open_home(home: Path | None, given: Mapping[str, Any]) -> Home:
    """The installation that environment and flags describe.

    Raises:
        InvalidSetting, LedgerUnavailable: what is wrong, and what was expected.
    """
    return Home.open(load_settings(home=home, **given))


def with_settings(names: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command one flag for each named setting; it receives those that were given as the dictionary `given`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**arguments: Any) -> Any:
            given = {name: arguments.pop(name) for name in names}
            return command(**arguments, given=given)

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        flags = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name))
            for name in names
        ]
        run.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
        return run

    return decorate


def _flag(name: str) -> Any:
    field = Settings.model_fields[name]
    default = field.default
    shown = ",".join(default) if isinstance(default, tuple) else default
    known = f" (default: {shown})" if default is not None else ""
    option = typer.Option(f"--{name.replace('_', '-')}", help=f"{field.description}{known}", show_default=False)
    return Annotated[_type(name), option]


def _type(name: str) -> Any:
    # Words and tuples stay text: the settings check them and say what was expected.
    kind = Settings.model_fields[name].annotation
    return (kind if kind in (int, float, bool) else str) | None

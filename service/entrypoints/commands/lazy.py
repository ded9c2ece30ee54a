"""Commands that are imported when they run: who asks for one of them does not wait for the libraries of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """Where a command is, and one line on it for the list of all.

    `target` is "module:attribute" and names a function, or a `typer.Typer` with commands of its own.
    """

    target: str
    summary: str


class LazyCommand(TyperCommand):
    """Stands for a command in the list of all, and becomes it when it runs."""

    def __init__(self, name: str, entry: CommandEntry) -> None:
        super().__init__(name=name, callback=None, help=entry.summary)
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command itself, so that from here on it is this one that runs."""
        return loaded(self._entry).make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    """Commands by name, none of them imported before it runs."""

    entries: ClassVar[Mapping[str, CommandEntry]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order in which they are to be read."""
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> LazyCommand | None:
        """What stands for the command until it runs; None if there is none of this name."""
        entry = self.entries.get(cmd_name)
        return None if entry is None else LazyCommand(cmd_name, entry)


def lazy_app(named: Mapping[str, CommandEntry], told: str) -> typer.Typer:
    """An application, or a command with commands of its own, that imports each of them when it runs."""

    class Group(LazyGroup):
        entries = named

    made = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # they show values of variables
        help=told,
    )
    made.callback()(lambda: None)  # without any command or callback of its own, typer finds nothing to run
    return made


def loaded(entry: CommandEntry) -> Any:
    """The command that the entry names, imported now."""
    module, _, attribute = entry.target.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(found)
    return typer.main.get_command(alone)

"""`lethe secret`: what the keyed hashes are made with, and how it is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.config import Settings, load_settings
from service.entrypoints import building
from service.entrypoints.bootstrap import Home, is_encrypted, secret_files, tombstone_path
from service.entrypoints.commands.console import err, print_report, progress_for_stderr
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.errors import InvalidInput, InvalidSetting
from service.forgetting.secret import Secrets, key_id
from service.forgetting.store_key import rotate_store_key

secret_app = typer.Typer(no_args_is_help=True, help="The secret that all keyed hashes are made with.")


@secret_app.command("keys")
def secret_keys(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Name the secrets by their key ids, and how many standing tombstones were written under each. Shows no secret."""
    opened = open_home(home, {})
    known = secret_files(opened.settings).open(lambda: None)
    standing = opened.tombstones.by_key()
    print_report({key: f"{state}, {standing[key]} tombstones" for key, state in _states(known)}, json_)


@secret_app.command("rotate")
def rotate_secret(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Replace the secret, and write anew what was written under it, as far as it can be. Stop servers and workers before.

    Those that run on can write nothing more until they are started again. Cut off anywhere, it goes on when run again.
    """
    settings = load_settings(home=home)
    _require_installation(settings)
    try:
        present, rekeyed = secret_files(settings).rotate(settings.ledger_at(), tombstone_path(settings))
    except OSError as error:
        raise InvalidSetting(
            f"the secret cannot be written ({error.strerror}); see the home folder and its disk"
        ) from error
    opened = Home.open(settings)
    rows = _rebuild(opened)
    print_report(
        {
            "key_id": key_id(present.present),
            "retired": [key_id(retired) for retired in present.retired],
            "tombstones_written_anew": len(rekeyed.moved),
            "validation_rows_written_anew": rows,
            "tombstones_of_the_retired_secret": rekeyed.kept,
        },
        json_,
    )
    if rekeyed.kept:
        err.print(_explanation(rekeyed.kept, present), style="yellow", highlight=False)


@secret_app.command("rotate-store-key")
def rotate_wrapping_key(
    to: Annotated[
        Path | None, typer.Option(help="File that holds the next key, where LETHE_STORE_KEY holds the present one.")
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Wrap the keys of an encrypted store with another key. Stop servers and workers before, and start them again.

    What backups of the database hold of destroyed keys opens to nobody once the old key is gone from everywhere. Cut off
    anywhere, it goes on when run again.
    """
    settings = load_settings(home=home)
    _require_installation(settings)
    if not is_encrypted(settings):
        raise InvalidInput("the store is not encrypted (LETHE_STORE_ENCRYPTION), so there is no key to rotate")
    count = rotate_store_key(settings.home, settings.store_key, to, settings.ledger_at())
    print_report({"keys_wrapped_anew": count}, json_)
    if to is not None:
        err.print(f"Set LETHE_STORE_KEY to what {to} holds, and start Lethe again.", style="yellow", highlight=False)


def _require_installation(settings: Settings) -> None:
    if settings.secret is None and not (settings.home / "secret").exists():
        raise InvalidInput(
            f"there is no secret in {settings.home}; name the home folder of an installation with --home"
        )


def _states(known: Secrets) -> list[tuple[str, str]]:
    return [(key_id(known.present), "present"), *((key_id(retired), "retired") for retired in known.retired)]


def _rebuild(opened: Home) -> int:
    """The names of validation rows are keyed hashes of people who stay: a build makes them anew. Returns how many."""
    opened.restore_check()
    if opened.ledger.published() is None:
        return 0
    bell = opened.bell()
    try:
        with progress_for_stderr() as progress:
            reconciler = building.reconciler(opened, bell, progress)
            return len(reconciler.rebuild(reconciler.config()).rows)
    finally:
        bell.close()


def _explanation(kept: int, present: Secrets) -> str:
    where = "LETHE_RETIRED_SECRETS" if present.given else "`secret.retired` in the home folder"
    return (
        f"{kept} tombstones stand for people, or items, that are not held any more: nobody knows their ids, so these "
        "cannot be written anew. They are recognized by the retired secret, which stays in "
        f"{where}: keep it, and back it up, until they expire (`lethe secret keys` counts them). "
        "Receipts that were signed name people by their old hashes, and stay as they are."
    )

"""What shows that a deletion was done and stays done: `lethe verify` and `lethe restore-check`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters_store import Inspector, KeysInMemory, Store, StoreFailure, open_store
from service.data.traces import texts_to_look_for
from service.entrypoints import building
from service.entrypoints.bootstrap import Home, is_encrypted
from service.entrypoints.commands.console import err, print_report, progress_for_stderr, text_of
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.errors import InvalidInput, InvalidSetting
from service.forgetting import evidence, receipts
from service.forgetting.erasure import ErasureAudit, ErasureAuditor
from service.generation import Manifest
from service.records import Published


def verify(
    rebuild: Annotated[bool, typer.Option(help="Build again in an empty store and compare every byte.")] = False,
    erasure: Annotated[
        str | None, typer.Option(metavar="REQUEST", help="Search for what this deletion should have erased.")
    ] = None,
    look_for: Annotated[
        Path | None, typer.Option(help="With --erasure: texts that must be nowhere in the home folder, one a line.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Check every file of the published generation against its digest; exit code 1 if anything differs."""
    opened = open_home(home, {})
    if look_for is not None and erasure is None:
        raise InvalidInput("--look-for belongs to --erasure REQUEST; name the deletion")
    if erasure is not None:
        _verify_erasure(opened, erasure, look_for)
        return
    published = opened.ledger.published()
    if published is None:
        raise InvalidSetting("nothing is published yet, so there is nothing to verify; run `lethe build`")
    manifest = _verify_store(opened, published)
    if rebuild:
        _verify_rebuild(opened, manifest, published)


def restore_check(home: HomeOption = None, json_: JsonOption = False) -> None:
    """After an old ledger was restored: forget again whoever was forgotten since. Servers and workers do it at start.

    Exit code 1 if there was nothing to compare with: then it would find nothing, whoever was forgotten.
    """
    opened = open_home(home, {})
    restored = opened.restore_check()
    compared = len(opened.ledger.tombstones())
    print_report(
        {
            "tombstones_set_again": restored.tombstones,
            "forgotten_again": len(restored.requests),
            "restraints_restored": restored.restraints,
            "tombstones_compared": compared,
            "people_compared": opened.ledger.counts().users,
        }
        | ({"requests": list(restored.requests)} if restored.requests else {}),
        json_,
    )
    if not compared:
        raise InvalidInput(
            "neither the ledger nor tombstones.jsonl in the home folder knows of any deletion, so nothing was compared; "
            "if people were forgotten here before, put tombstones.jsonl back from a backup and check again"
        )


def _verify_store(opened: Home, published: Published) -> Mapping[str, Any]:
    """Compare every file of the store with the published manifest, and return it. Raises StoreFailure."""
    found = Inspector(opened.store).look(published.generation, whole=True)
    active = None if found.faults else opened.store.active()
    if found.faults or found.manifest is None:
        more = f" (and {len(found.faults) - 1} more)" if len(found.faults) > 1 else ""
        raise StoreFailure(f"{found.faults[0].reason}{more}; run `lethe build`: what differs is made again")
    if active != published.generation:
        raise StoreFailure(
            f"the store's ACTIVE names another generation than {published.generation}, which the ledger calls published; "
            "run `lethe build`"
        )
    manifest = Manifest.of(found.manifest)
    typer.echo(
        f"generation {published.generation}: {len(manifest.adapters)} adapters and {len(manifest.memories)} memories sound; "
        f"{found.files} files ({found.bytes_read:,} bytes) compared with the manifest whose digest is the generation's name"
    )
    if found.leftovers:
        err.print(
            f"beside it the store holds {found.leftovers} artifacts or notes of a build that is under way or was cut off; "
            "they are not served, and go with the next one",
            style="yellow",
        )
    return found.manifest


def _verify_rebuild(opened: Home, served: Mapping[str, Any], published: Published) -> None:
    _require_at_rest(opened, published)
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        store = _scratch_store(opened, Path(scratch))
        built = building.dry_run_builder(opened, store, progress).build(published.config)
        differing = _differing(served, store.generation(built.generation).manifest)
    if built.generation != published.generation:
        _require_at_rest(opened, published)  # perhaps a deletion came meanwhile
        raise StoreFailure(
            f"a clean build gives generation {built.generation}, but {published.generation} is served; "
            f"they differ in {differing}; "
            "run `lethe build`: what differs is made again"
        )
    manifest = Manifest.of(served)
    typer.echo(
        f"a clean build gives the same {len(manifest.adapters)} adapters, {len(manifest.memories)} memories and "
        f"{len(served['files'])} other files, byte for byte"
    )


def _scratch_store(opened: Home, folder: Path) -> Store:
    """A store for a while; beside an encrypted one its keys are nowhere but in memory, so that no disk keeps plain bytes."""
    return open_store(None, folder, keys=KeysInMemory() if is_encrypted(opened.settings) else None)


def _require_at_rest(opened: Home, published: Published) -> None:
    """Between a deletion and its publication a clean build rightly gives something else than what is served."""
    if pending := len(opened.ledger.pending()):
        raise InvalidInput(
            f"deletions that are not completed yet: {pending}; until they are, a clean build gives another generation than is "
            "served; verify again when `lethe status` names none"
        )
    if opened.ledger.is_behind():
        raise InvalidInput(
            "since what is served was built the horizon has moved, the catalog has changed, or somebody's data was restricted "
            "or is used again; a worker makes it good in a moment, and so does `lethe build`; then verify again"
        )
    now = opened.ledger.published()
    if now is None or now.generation != published.generation:
        raise InvalidInput("another generation was published meanwhile; verify again")


def _differing(served: Mapping[str, Any], clean: Mapping[str, Any]) -> str:
    parts = [name for name in sorted(served.keys() | clean.keys()) if served.get(name) != clean.get(name)]
    return ", ".join(parts)


def _verify_erasure(opened: Home, request_id: str, look_for: Path | None) -> None:
    request = opened.ledger.request(request_id)
    if request.receipt is None:
        raise InvalidInput(f"this deletion is not completed yet (it is {request.state}); wait for its receipt")
    receipt = receipts.verify(request.receipt, opened.signer.public_keys_pem())
    texts = [] if look_for is None else texts_to_look_for(text_of(look_for))
    if not texts and not receipt.get("held", True):
        raise InvalidInput(
            "nothing was held of what this deletion names, so there is nothing of it to search for; "
            "give the id with --look-for FILE to search for the id itself"
        )
    audit = ErasureAuditor(opened.ledger, opened.store).search([request])
    search = evidence.look_for(opened.ledger, opened.settings.home, texts, _elsewhere(opened)) if texts else None
    if audit.found or (search and search.found):
        said = f"; {search.said(opened.settings.home)}" if search else ""
        raise StoreFailure(
            f"something of the deletion is left: {audit.found} artifacts or rows{said}; "
            "run `lethe restore-check` and `lethe build`, and look at logs that others write into the home folder"
        )
    _tell_what_was_searched(audit, search)


def _elsewhere(opened: Home) -> Iterator[tuple[Path, bytes]]:
    """The files of a store that is not in the home folder, which is searched anyway; of an encrypted one what they open to."""
    store, home = opened.store.backend, opened.settings.home.absolute()
    in_home = store.folder is not None and store.folder.absolute().is_relative_to(home)
    return iter(()) if in_home and not is_encrypted(opened.settings) else store.contents()


def _tell_what_was_searched(audit: ErasureAudit, search: evidence.TextSearch | None) -> None:
    files = audit.files_searched + (search.files.files if search else 0)
    read = audit.bytes_searched + (search.files.bytes if search else 0)
    typer.echo(f"nothing of the deletion is left: {files} files and {read:,} bytes searched, receipt genuine")
    typer.echo(
        f"artifacts: {audit.names_searched} names of what had seen the person looked for in {audit.files_searched:,} files "
        f"of the store; the person's keyed hash compared with those of {audit.people_searched:,} people"
    )
    for line in search.lines() if search else ():
        typer.echo(line)
    if search is None:
        typer.echo(
            "the ledger no longer knows the person's id: give it with --look-for to search for the id itself, too"
        )

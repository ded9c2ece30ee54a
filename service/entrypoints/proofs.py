"""What shows an outsider that a deletion was done: `lethe verify`, `lethe receipts`, `lethe restore-check`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters_store import Artifacts, Store, StoreFailure
from service.entrypoints.bootstrap import Home, receipt_key_path
from service.entrypoints.console import err, print_report, progress_for_stderr
from service.entrypoints.options import HomeOption, JsonOption, open_home
from service.errors import InvalidInput, InvalidSetting
from service.forgetting import receipts
from service.forgetting.erasure import RemainsFinder, files_holding, needles_of
from service.forgetting.receipts import ReceiptSigner
from service.records import Published

receipts_app = typer.Typer(no_args_is_help=True, help="The signed evidence of completed deletions.")


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
    manifest = opened.store.generation(published.generation).manifest
    _verify_artifacts(opened.store.adapters, "adapter", manifest["adapters"])
    _verify_artifacts(opened.store.memories, "memory", manifest["memories"])
    adapters, memories = len(manifest["adapters"]), len(manifest["memories"])
    typer.echo(f"generation {published.generation}: {adapters} adapters and {memories} memories sound")
    if rebuild:
        _verify_rebuild(opened, manifest, published)


def restore_check(home: HomeOption = None, json_: JsonOption = False) -> None:
    """After an old ledger was restored: forget again whoever was forgotten since. Servers and workers do it at start."""
    restored = open_home(home, {}).restore_check()
    print_report(
        {"tombstones_set_again": restored.tombstones, "forgotten_again": len(restored.requests)}
        | ({"requests": list(restored.requests)} if restored.requests else {}),
        json_,
    )


@receipts_app.command("key")
def receipts_key(home: HomeOption = None) -> None:
    """Print the public key, for whoever verifies receipts elsewhere."""
    typer.echo(open_home(home, {}).signer.public_key_pem(), nl=False)


@receipts_app.command("keys")
def receipts_keys(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Print all public keys, also the retired ones: a file for --public-key that verifies every receipt there is."""
    signer = open_home(home, {}).signer
    if json_:
        states = {signer.key_id(): "present", **dict.fromkeys(signer.retired, "retired")}
        print_report({"keys": [{"key_id": key, "state": state} for key, state in states.items()]}, json_)
        return
    typer.echo(signer.public_keys_pem(), nl=False)


@receipts_app.command("rotate")
def receipts_rotate(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Sign with a new key from now on. The old one's public key stays; start servers and workers again, and publish both."""
    opened = open_home(home, {})
    signer = ReceiptSigner.rotate(receipt_key_path(opened.settings))
    print_report({"key_id": signer.key_id(), "retired": list(signer.retired)}, json_)
    err.print("start servers and workers again; publish what `lethe receipts keys` prints", style="yellow")


@receipts_app.command("verify")
def receipts_verify(
    file: Annotated[Path, typer.Argument(help="A receipt as it was downloaded; - for standard input.")],
    public_key: Annotated[
        Path | None, typer.Option(help="What `lethe receipts keys` printed, from a safe place.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Check a receipt's signature and print what it states; needs no installation. Exit code 1 if it was changed."""
    content = receipts.verify(_text_of(file), None if public_key is None else _text_of(public_key))
    print_report(content, json_)
    if public_key is None:
        err.print("unchanged since it was signed; give --public-key to know by whom", style="yellow")


def _verify_artifacts(artifacts: Artifacts, kind: str, stated: list[dict[str, Any]]) -> None:
    for artifact in stated:
        if artifacts.sums(artifact["digest"]) != artifact["files"]:
            raise StoreFailure(f"{kind} {artifact['digest']} is not the one that the manifest names; run `lethe build`")


def _verify_rebuild(opened: Home, manifest: dict[str, Any], published: Published) -> None:
    _require_at_rest(opened, published)
    with tempfile.TemporaryDirectory() as scratch, progress_for_stderr() as progress:
        store = Store(Path(scratch))
        built = opened.rehearsal(store, progress).build(published.config)
        differing = _differing(manifest, store.generation(built.generation).manifest)
    if built.generation != published.generation:
        _require_at_rest(opened, published)  # perhaps a deletion came meanwhile
        raise StoreFailure(
            f"a clean build gives generation {built.generation}, but {published.generation} is served; "
            f"they differ in {differing}; "
            "if rows were imported since, run `lethe build`"
        )
    adapters, memories, files = (len(manifest[kind]) for kind in ("adapters", "memories", "files"))
    typer.echo(
        f"a clean build gives the same {adapters} adapters, {memories} memories and {files} other files, byte for byte"
    )


def _require_at_rest(opened: Home, published: Published) -> None:
    """Between a deletion and its publication a clean build rightly gives something else than what is served."""
    if owed := len(opened.ledger.owed()):
        raise InvalidInput(
            f"deletions that are not completed yet: {owed}; until they are, a clean build gives another generation than is "
            "served; verify again when `lethe status` names none"
        )
    now = opened.ledger.published()
    if now is None or now.generation != published.generation:
        raise InvalidInput("another generation was published meanwhile; verify again")


def _differing(served: dict[str, Any], clean: dict[str, Any]) -> str:
    parts = [name for name in sorted(served.keys() | clean.keys()) if served.get(name) != clean.get(name)]
    return ", ".join(parts)


def _verify_erasure(opened: Home, request_id: str, look_for: Path | None) -> None:
    request = opened.ledger.request(request_id)
    if request.receipt is None:
        raise InvalidInput(f"this deletion is not completed yet (it is {request.state}); wait for its receipt")
    receipts.verify(request.receipt, opened.signer.public_keys_pem())
    remains = RemainsFinder(opened.ledger, opened.store).search([request])
    texts = [] if look_for is None else [line for line in _text_of(look_for).splitlines() if line]
    search = files_holding(opened.settings.home, needles_of(texts))
    in_database = sum(opened.ledger.mentions(text) for text in texts)
    if remains.found or search.hits or in_database:
        where = ", ".join(str(path.relative_to(opened.settings.home)) for path in search.hits[:5])
        raise StoreFailure(
            f"something of the deletion is left: {remains.found} artifacts or rows, {len(search.hits)} files with a text "
            f"that was looked for{f' ({where})' if where else ''}, {in_database} rows of the database; "
            "run `lethe restore-check` and `lethe build`, and look at logs that others write into the home folder"
        )
    files, read = remains.files_searched + search.files, remains.bytes_searched + search.bytes
    typer.echo(f"nothing of the deletion is left: {files} files and {read:,} bytes searched, receipt genuine")
    if look_for is None:
        typer.echo("the ledger no longer knows the person's id: give it with --look-for to search for its bytes, too")


def _text_of(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as text ({type(error).__name__})") from error

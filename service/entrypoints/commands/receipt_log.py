"""`lethe receipts log`: that every receipt is in a log which is only ever appended to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.config import load_settings
from service.entrypoints.bootstrap import Home, receipt_key_path
from service.entrypoints.commands.console import print_report, text_of
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.errors import InvalidInput, ProofInvalid
from service.forgetting.receipts import ReceiptSigner
from service.forgetting.transparency import verify_head, verify_proof
from service.ledger import LogCheck

log_app = typer.Typer(
    no_args_is_help=True, help="The log that every receipt is in: signed heads, proofs, and their check."
)
_SizeOption = Annotated[int | None, typer.Option(min=0, help="Over the first so many receipts; default: all.")]


@log_app.command("head")
def log_head(size: _SizeOption = None, home: HomeOption = None) -> None:
    """Print the signed tree head. Whoever keeps it can show later that no receipt was removed, changed or moved."""
    typer.echo(open_home(home, {}).log().head(size), nl=False)


@log_app.command("prove")
def log_prove(
    request: Annotated[
        str | None, typer.Argument(help="Id of a completed deletion: prove that its receipt is there.")
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(min=0, help="Prove that the log goes on from an older tree head over so many receipts."),
    ] = None,
    size: _SizeOption = None,
    home: HomeOption = None,
) -> None:
    """Print a proof, with the signed tree head that it is under: for `lethe receipts log verify --proof` on any machine."""
    if request is None and since is None:
        raise InvalidInput("name a request, an older size with --since, or both: there is nothing else to prove")
    typer.echo(json.dumps(open_home(home, {}).log().prove(request, size, since).stated(), indent=2))


@log_app.command("verify")
def log_verify(
    proof: Annotated[
        Path | None, typer.Option(help="What `prove` printed; without it, the whole log is checked.")
    ] = None,
    receipt: Annotated[Path | None, typer.Option(help="With --proof: the receipt, or attestation, it is of.")] = None,
    older_head: Annotated[
        Path | None, typer.Option(help="A tree head from before, which the log must go on from.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(help="What `lethe receipts keys` printed, from a safe place; default: the home's keys."),
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Check the whole log of an installation, or without one a proof of it. Exit code 1 if anything is not as it should be."""
    trusted = trusted_keys(public_key, home)
    older = None if older_head is None else text_of(older_head)
    if proof is None:
        if receipt is not None:
            raise InvalidInput("a receipt is compared with a proof: give --proof FILE with what `prove` printed")
        _verify_whole(open_home(home, {}), trusted, older, json_)
        return
    shown = verify_proof(text_of(proof), trusted, None if receipt is None else text_of(receipt), older)
    report = {"tree_size": shown.head.size, "root_hash": shown.head.root.hex()}
    entry = {} if shown.leaf_index is None else {"receipt_is_entry": shown.leaf_index}
    earlier = {} if shown.goes_on_from is None else {"goes_on_from": shown.goes_on_from}
    print_report(report | entry | earlier, json_)


def trusted_keys(public_key: Path | None, home: Path | None) -> str:
    """The keys that a document must be signed by one of: those of a file, or of the installation. Raises InvalidInput."""
    if public_key is not None:
        return text_of(public_key)
    path = receipt_key_path(load_settings(home=home))
    if not path.exists():
        # Its own key would only show that nobody changed it after whoever made it, and a forger makes it whole.
        raise InvalidInput(
            "by whom a receipt is signed can only be told with a key from a safe place: give --public-key FILE with what "
            "`lethe receipts key` printed, or --home FOLDER of the installation that signed it"
        )
    return ReceiptSigner.open(path).public_keys_pem()


def _verify_whole(opened: Home, trusted: str, older: str | None, json_: bool) -> None:
    found = opened.ledger.receipt_log.check()
    if found.faults:
        more = f" (and {len(found.faults) - 1} more)" if len(found.faults) > 1 else ""
        raise ProofInvalid(f"the log of receipts is not sound: {found.faults[0]}{more}")
    if older is not None:
        _compare(opened, found, trusted, older)
    report = {"tree_size": found.head.size, "root_hash": found.head.root.hex(), "receipts": found.receipts}
    print_report(report, json_)


def _compare(opened: Home, found: LogCheck, trusted: str, older: str) -> None:
    kept = verify_head(older, trusted)
    if kept.size > found.head.size:
        raise ProofInvalid(
            f"the older tree head is over {kept.size} receipts, and the log has {found.head.size}: receipts are missing, or an "
            "older ledger was restored from a backup"
        )
    if opened.ledger.receipt_log.head(kept.size) != kept:
        raise ProofInvalid(
            f"the log's first {kept.size} entries are not those of the older tree head: receipts were removed, changed or moved"
        )

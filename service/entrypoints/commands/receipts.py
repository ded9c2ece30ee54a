"""`lethe receipts`: the signed evidence that an outsider can check."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.entrypoints.bootstrap import receipt_key_path
from service.entrypoints.commands.console import err, print_report, text_of
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.entrypoints.commands.receipt_log import log_app, trusted_keys
from service.errors import InvalidInput, ReceiptInvalid
from service.forgetting import attestations
from service.forgetting.attestations import attest
from service.forgetting.receipts import ReceiptSigner

receipts_app = typer.Typer(no_args_is_help=True, help="The signed evidence of completed deletions.")
receipts_app.add_typer(log_app, name="log")


class ReceiptFormat(StrEnum):
    """In which form a receipt is printed."""

    RECEIPT = "receipt"
    DSSE = "dsse"


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


@receipts_app.command("export")
def receipts_export(
    request: Annotated[str, typer.Argument(help="Id of a completed deletion.")],
    format_: Annotated[
        ReceiptFormat,
        typer.Option("--format", help="receipt: as it was signed; dsse: as an in-toto attestation in a DSSE envelope."),
    ] = ReceiptFormat.RECEIPT,
    home: HomeOption = None,
) -> None:
    """Print the receipt of a deletion."""
    opened = open_home(home, {})
    found = opened.ledger.request(request)
    if found.receipt is None:
        raise InvalidInput(f"this deletion is not completed yet (it is {found.state}); wait for its receipt")
    typer.echo(found.receipt if format_ is ReceiptFormat.RECEIPT else attest(found.receipt, opened.signer), nl=False)


@receipts_app.command("verify")
def receipts_verify(
    files: Annotated[
        list[Path],
        typer.Argument(help="Receipts, or attestations of them, as they were downloaded; - for standard input."),
    ],
    public_key: Annotated[
        Path | None, typer.Option(help="What `lethe receipts keys` printed, from a safe place.")
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Check by whom a receipt is signed and print what it states; needs no installation if the public key is given.

    Without --public-key it must be signed by the installation in the home folder. Of several receipts their number is printed.
    Exit code 1 if one was changed, signed by anybody else, or if nobody's key is at hand.
    """
    trusted = trusted_keys(public_key, home)
    found = [_verified(file, trusted, named=len(files) > 1) for file in files]
    if len(found) == 1:
        print_report(found[0], json_)
    else:
        print_report({"verified": len(found), "deletions": len({one["request_id"] for one in found})}, json_)


def _verified(file: Path, trusted: str, named: bool) -> dict[str, Any]:
    try:
        return attestations.verify(text_of(file), trusted).content
    except ReceiptInvalid as error:
        raise ReceiptInvalid(f"{file.name}: {error}" if named else str(error)) from None

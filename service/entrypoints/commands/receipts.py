"""`lethe receipts`: the signed evidence that an outsider can check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.config import load_settings
from service.entrypoints.bootstrap import receipt_key_path
from service.entrypoints.commands.console import err, print_report, text_of
from service.entrypoints.commands.options import HomeOption, JsonOption, open_home
from service.errors import InvalidInput
from service.forgetting import receipts
from service.forgetting.receipts import ReceiptSigner

receipts_app = typer.Typer(no_args_is_help=True, help="The signed evidence of completed deletions.")


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
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Check by whom a receipt is signed and print what it states; needs no installation if the public key is given.

    Without --public-key it must be signed by the installation in the home folder. Exit code 1 if it was changed, signed by
    anybody else, or if nobody's key is at hand.
    """
    trusted = _key_of_home(home) if public_key is None else text_of(public_key)
    content = receipts.verify(text_of(file), trusted)
    print_report(content, json_)


def _key_of_home(home: Path | None) -> str:
    path = receipt_key_path(load_settings(home=home))
    if not path.exists():
        # Its own key would only show that nobody changed it after whoever made it, and a forger makes it whole.
        raise InvalidInput(
            "by whom a receipt is signed can only be told with a key from a safe place: give --public-key FILE with what "
            "`lethe receipts key` printed, or --home FOLDER of the installation that signed it"
        )
    return ReceiptSigner.open(path).public_key_pem()

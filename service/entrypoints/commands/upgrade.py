"""`lethe upgrade`: a ledger and a store of an earlier version -> of this one."""

from __future__ import annotations

from adapters_store import KeysInMemory
from service.config import load_settings
from service.entrypoints.bootstrap import is_encrypted, store_of
from service.entrypoints.commands.console import print_report
from service.entrypoints.commands.options import HomeOption, JsonOption
from service.ledger import upgrade_ledger


def upgrade(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Bring the ledger of an earlier version to this one's schema. Nothing is lost; upgrading twice changes nothing.

    Servers and workers do so at their start, except for upgrades that want all of them stopped: these they refuse, and say so.
    """
    settings = load_settings(home=home)
    before, now = upgrade_ledger(settings.ledger_at())
    store = store_of(settings, KeysInMemory() if is_encrypted(settings) else None)  # of which only its form is read
    print_report({"ledger_schema_before": before, "ledger_schema": now, "store_format": store.format}, json_)

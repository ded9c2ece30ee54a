"""The log of receipts as others see it: signed tree heads, proofs, and how both are checked without the installation.

Whoever keeps a head can tell later that nothing of what it was over has been removed, changed or moved: by a proof that the
present head goes on from it. Heads are signed with the receipts' key, in envelopes whose type no receipt has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from service.errors import InvalidInput, ProofInvalid
from service.forgetting import attestations
from service.forgetting.envelopes import Signs, read_json, seal, unseal
from service.ledger import (
    Consistency,
    Inclusion,
    TreeHead,
    entry_of,
    leaf_hash,
    proves_consistency,
    proves_inclusion,
)

HEAD_TYPE = "application/vnd.lethe.tree-head+json"
HEAD_FORMAT = "lethe-tree-head-1"
PROOF_FORMAT = "lethe-log-proof-1"


class ProvesReceipts(Protocol):
    """Keeps the log, and finds heads and proofs of any size that it has had."""

    def head(self, size: int | None = None) -> TreeHead: ...

    def prove_inclusion(self, request_id: str, size: int | None = None) -> tuple[TreeHead, Inclusion]: ...

    def prove_consistency(self, first: int, size: int | None = None) -> tuple[TreeHead, Consistency]: ...


@dataclass(frozen=True, slots=True)
class ReceiptProof:
    """Proofs under one signed head. Of inclusion if they were asked for a request, of consistency if for an earlier size."""

    tree_head: str  # the envelope
    inclusion: Inclusion | None
    consistency: Consistency | None

    def stated(self) -> dict[str, Any]:
        """The proof as JSON."""
        inclusion, consistency = self.inclusion, self.consistency
        return {
            "format": PROOF_FORMAT,
            "tree_head": read_json(self.tree_head),
            "inclusion": inclusion
            and {"leaf_index": inclusion.index, "salt": inclusion.salt.hex(), "path": _in_hex(inclusion.path)},
            "consistency": consistency and {"first_size": consistency.first, "path": _in_hex(consistency.path)},
        }


class TransparencyLog:
    """Signs heads of the log, and hands out proofs under them."""

    def __init__(self, log: ProvesReceipts, signer: Signs, clock: Callable[[], float]) -> None:
        self._log = log
        self._signer = signer
        self._clock = clock

    def head(self, size: int | None = None) -> str:
        """The signed head of now, or over the first `size` receipts. Raises InvalidInput for a size that there was not."""
        return self._signed(self._log.head(size))

    def prove(self, request_id: str | None, size: int | None = None, since: int | None = None) -> ReceiptProof:
        """That a request's receipt is in the log at `size` (now), and that it goes on from the log at the size `since`.

        Either may be left out. Raises UnknownRequest for a request without a receipt, and InvalidInput.
        """
        head = self._log.head(size)
        inclusion = None if request_id is None else self._log.prove_inclusion(request_id, head.size)[1]
        consistency = None if since is None else self._log.prove_consistency(since, head.size)[1]
        return ReceiptProof(self._signed(head), inclusion, consistency)

    def _signed(self, head: TreeHead) -> str:
        at = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = {"format": HEAD_FORMAT, "tree_size": head.size, "root_hash": head.root.hex(), "timestamp": at}
        return seal(content, HEAD_TYPE, self._signer)


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """What a proof has shown: the head, the number of the receipt's entry, and from which earlier size the log goes on."""

    head: TreeHead
    leaf_index: int | None
    goes_on_from: int | None


def verify_head(document: str, public_keys_pem: str) -> TreeHead:
    """The head that one of these keys has signed. Raises ReceiptInvalid, ProofInvalid, InvalidInput for keys that are none."""
    content = unseal(document, HEAD_TYPE, public_keys_pem)
    try:
        size, root = content["tree_size"], bytes.fromhex(content["root_hash"])
        if content["format"] == HEAD_FORMAT and isinstance(size, int) and size >= 0:
            return TreeHead(size, root)
    except (KeyError, TypeError, ValueError):
        pass
    raise ProofInvalid(f"the tree head is not of the form {HEAD_FORMAT}")


def verify_proof(
    document: str, public_keys_pem: str, receipt: str | None = None, older_head: str | None = None
) -> VerifiedProof:
    """What a proof shows of a receipt (or an attestation) and of an older head. Needs nothing else.

    Raises ProofInvalid if it shows not what it should, ReceiptInvalid for a signature that does not hold, and InvalidInput if
    there is nothing for it to show, or the keys are none.
    """
    if receipt is None and older_head is None:
        raise InvalidInput("a proof says nothing alone: give the receipt that it is of, an older tree head, or both")
    proof = read_json(document)
    if not isinstance(proof, dict) or proof.get("format") != PROOF_FORMAT:
        raise ProofInvalid(f"the proof is not of the form {PROOF_FORMAT}")
    head = verify_head(_as_text(proof.get("tree_head")), public_keys_pem)
    index = None if receipt is None else _verify_inclusion(proof.get("inclusion"), head, receipt, public_keys_pem)
    older = None if older_head is None else verify_head(older_head, public_keys_pem)
    if older is not None:
        _verify_consistency(proof.get("consistency"), head, older)
    return VerifiedProof(head, index, None if older is None else older.size)


def _verify_inclusion(given: Any, head: TreeHead, receipt: str, public_keys_pem: str) -> int:
    digest = attestations.verify(receipt, public_keys_pem).digest
    try:
        index, salt, path = int(given["leaf_index"]), bytes.fromhex(given["salt"]), _of_hex(given["path"])
    except (KeyError, TypeError, ValueError):
        raise ProofInvalid("the proof holds no inclusion proof; ask for that of the receipt's request") from None
    if not proves_inclusion(leaf_hash(entry_of(salt, digest)), index, head.size, path, head.root):
        raise ProofInvalid("the proof does not show that this receipt is in the log under this tree head")
    return index


def _verify_consistency(given: Any, head: TreeHead, older: TreeHead) -> None:
    if older.size > head.size:
        raise ProofInvalid(f"the older tree head is over {older.size} receipts, the proof's over {head.size}")
    if older.size in (0, head.size):
        path: Sequence[bytes] = ()
    else:
        path = _path_from(given, older.size)
    if not proves_consistency(older.size, head.size, older.root, head.root, path):
        raise ProofInvalid(
            "the proof's tree head does not go on from the older one: receipts were removed, changed or moved"
        )


def _path_from(given: Any, size: int) -> list[bytes]:
    try:
        if int(given["first_size"]) == size:
            return _of_hex(given["path"])
    except (KeyError, TypeError, ValueError):
        pass
    raise InvalidInput(
        f"the proof holds no consistency proof from {size} receipts, over which the older tree head is; ask for one with "
        f"`--since {size}` (over HTTP `since={size}`)"
    )


def _as_text(envelope: Any) -> str:
    return envelope if isinstance(envelope, str) else json.dumps(envelope)


def _in_hex(path: Sequence[bytes]) -> list[str]:
    return [hashed.hex() for hashed in path]


def _of_hex(path: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(hashed) for hashed in path]

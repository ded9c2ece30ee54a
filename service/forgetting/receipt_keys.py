"""The keys that receipts are signed with: the present private one, and the public ones of all that were retired.

Files in the home folder: `receipts.pem`, the private key, and `receipts.retired.pem`, public keys one after the other. Who
verifies old receipts needs the latter, so they are kept for good, and published with `lethe receipts keys`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from adapters_store import sync_directory
from service.errors import InvalidInput, InvalidSetting

_KEY_ID_LENGTH = 16  # hex digits
_OTHERS = 0o077  # permissions of group and others
_BLOCK = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.DOTALL)


def new_private_key() -> bytes:
    """PEM, PKCS #8, not encrypted."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_id(key: Ed25519PublicKey) -> str:
    """The name of a key: hex digits of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_LENGTH]


def pem_of(key: Ed25519PublicKey) -> str:
    """A public key as PEM, to be handed to whoever verifies receipts."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_keys_in(pem: str) -> dict[str, Ed25519PublicKey]:
    """Key id -> key, of all public keys in a text. Raises InvalidInput if there is none, or one that is not Ed25519."""
    keys = [_public_key(block) for block in _BLOCK.findall(pem)]
    if not keys:
        raise InvalidInput("the public key is no Ed25519 key in PEM")
    return {key_id(key): key for key in keys}


def signing_key(keys: Mapping[str, Ed25519PublicKey], message: bytes, signature: bytes) -> str | None:
    """The id of the one of these keys whose signature of the message this is; None if it is nobody's."""
    return next((name for name, key in keys.items() if _has_signed(key, message, signature)), None)


def _has_signed(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class RetiredKeys:
    """The file of retired public keys beside the private key at `path`. Raises InvalidSetting."""

    def __init__(self, path: Path) -> None:
        self._private = path
        self._path = path.with_name(f"{path.stem}.retired{path.suffix}")

    def all(self) -> dict[str, Ed25519PublicKey]:
        """Key id -> key, oldest first."""
        with self._failures():
            text = self._path.read_text() if self._path.exists() else ""
        try:
            return public_keys_in(text) if text.strip() else {}
        except InvalidInput:
            raise InvalidSetting(f"{self._path} holds no Ed25519 keys in PEM; restore it from a backup") from None

    def replace(self, old: Ed25519PublicKey) -> None:
        """Put a new private key in the place of the one whose public key is `old`, which is kept here first."""
        with self._failures():
            if key_id(old) not in self.all():
                _append(self._path, f"{pem_of(old)}".encode())
            temporary = self._private.with_name(f".{self._private.name}-{secrets.token_hex(8)}")
            _append(temporary, new_private_key())
            os.replace(temporary, self._private)
            sync_directory(self._private.parent)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidSetting(
                f"the receipt keys beside {self._private} cannot be used ({error.strerror}); see the folder and its disk"
            ) from error


def _append(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def _public_key(pem: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidInput("the public key is no Ed25519 key in PEM")
    return key

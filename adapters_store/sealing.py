"""What is done with a key: a file's bytes are sealed and opened (AES-256-GCM), and keys are wrapped to be kept (AES-KW)."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

KEY_BYTES = 32
LARGEST = 2**31 - 1  # bytes that AES-GCM takes at once

_NONCE_BYTES = 12
_NONCE = b"lethe store nonce 1\0"


class NotOpened(Exception):
    """The key is another one, or what was sealed is not what was written, or not where it was written."""


def new_key() -> bytes:
    """A random key of 256 bits."""
    return AESGCM.generate_key(256)


def seal(key: bytes, path: str, content: bytes) -> bytes:
    """Return nonce (12 bytes), ciphertext and tag (16) of a file at a path, where alone `unseal` takes it.

    One key, path and content give the same bytes whenever they are sealed, so that whoever comes second can compare them.
    """
    nonce = _nonce(key, path, content)
    return nonce + AESGCM(key).encrypt(nonce, content, path.encode())


def unseal(key: bytes, path: str, sealed: bytes) -> bytes:
    """Return the content that was sealed with this key at this path. Raises `NotOpened`."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], path.encode())
    except (InvalidTag, ValueError):
        raise NotOpened from None


def wrap(wrapping_key: bytes, key: bytes) -> bytes:
    """Return a key wrapped by another as RFC 3394 has it: 8 bytes longer."""
    return aes_key_wrap(wrapping_key, key)


def unwrap(wrapping_key: bytes, wrapped: bytes) -> bytes:
    """Return the key that was wrapped. Raises `NotOpened` if another key wrapped it."""
    try:
        return aes_key_unwrap(wrapping_key, wrapped)
    except InvalidUnwrap:
        raise NotOpened from None


def _nonce(key: bytes, path: str, content: bytes) -> bytes:
    # Of the content too: under the name alone, other bytes sealed with one key would give away both and forge a third.
    return HKDF(SHA256(), _NONCE_BYTES, hashlib.sha256(content).digest(), _NONCE + path.encode()).derive(key)

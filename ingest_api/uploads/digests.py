"""`Content-Digest` and `Repr-Digest` (RFC 9530) and the older `Digest` (RFC 3230): verified when sent.

Content-Digest and Repr-Digest are over the request's content: for a form that is the whole form, boundaries and all.
In the headers of one part of a form they are over that part's bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from pipeline.errors import BadRequest, DigestMismatch

LENGTHS = {"sha-256": 32, "sha-512": 64}
_MEMBER = re.compile(r"\s*([A-Za-z0-9*_.-]+)\s*=\s*(:[^:]*:|[A-Za-z0-9+/=_-]*)\s*(?:;[^,]*)?")


def _decoded(field_name: str, algorithm: str, text: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != LENGTHS[algorithm]:
        raise BadRequest(f"{field_name}: the {algorithm} digest is not {LENGTHS[algorithm]} bytes in base64.")
    return value


def digests_in(headers: Mapping[str, str]) -> list[tuple[str, str, bytes]]:
    """(field, algorithm, digest) for each that was sent and can be checked. Other algorithms are passed over.

    Raises:
        BadRequest: a digest that is meant to be one of ours cannot be read.
    """
    found: list[tuple[str, str, bytes]] = []
    for name in ("Content-Digest", "Repr-Digest", "Digest"):
        value = headers.get(name.lower())
        if value is None:
            continue
        for member in value.split(","):
            match = _MEMBER.fullmatch(member)
            if match is None:
                raise BadRequest(f"{name} cannot be read; it looks like sha-256=:BASE64:.")
            algorithm, text = match[1].lower(), match[2]
            if algorithm not in LENGTHS:
                continue
            if name == "Digest":
                text = text.strip(":")
            elif not text.startswith(":"):
                raise BadRequest(f"{name} holds a byte sequence, between colons: {algorithm}=:BASE64:.")
            found.append((name, algorithm, _decoded(name, algorithm, text.strip(":"))))
    return found


_SHA256_HEX = re.compile(r"[0-9A-Fa-f]{64}")


def sha256_in(value: str, name: str = "sha256") -> str:
    """A SHA-256 as clients write it (hexadecimal or Base64, perhaps with the algorithm's name in front), in lower-case
    hexadecimal. Raises BadRequest."""
    text = re.sub(r"^sha-?256[:=]", "", value.strip(), flags=re.IGNORECASE).strip(":")
    if _SHA256_HEX.fullmatch(text):
        return text.lower()
    try:
        # Padding is often left away, and URLs have an alphabet of their own.
        plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
        raw = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise BadRequest(f"{name} is a SHA-256 in hexadecimal or Base64.")
    return raw.hex()


class Checks:
    """What some bytes must hash to. `update` takes them all; `verify` judges."""

    def __init__(self, wanted: Sequence[tuple[str, str, bytes]] = (), *, alone: bool = False) -> None:
        """`alone`: nobody else computes the SHA-256 that `verify` could be given."""
        self.wanted = tuple(wanted)
        needed = {algorithm for _, algorithm, _ in self.wanted} - (set() if alone else {"sha-256"})
        self._hashers = {algorithm: hashlib.new(algorithm.replace("-", "")) for algorithm in needed}

    def update(self, chunk: bytes) -> None:
        """Hash what nobody else does."""
        for hasher in self._hashers.values():
            hasher.update(chunk)

    def verify(self, sha256: bytes = b"") -> None:
        """Raises DigestMismatch with the field that does not match."""
        for name, algorithm, wanted in self.wanted:
            hasher = self._hashers.get(algorithm)
            found = hasher.digest() if hasher is not None else sha256
            if not hmac.compare_digest(found, wanted):
                raise DigestMismatch(
                    f"{name} names another {algorithm} digest than the bytes that arrived have. Send them again.",
                    header=name,
                    algorithm=algorithm,
                )

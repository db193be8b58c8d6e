"""Clearance receipts: a compact JWS (RFC 7515) of who found what in which bytes, signed with Ed25519 (RFC 8037).

Anyone who has the public key can check a file against its receipt, offline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt import InvalidTokenError, PyJWS
from jwt.algorithms import OKPAlgorithm

from pipeline.documents import Document, Part, VerdictRecord
from pipeline.errors import BadRequest, DigestMismatch, Misconfigured
from pipeline.keyfiles import made_once
from pipeline.policy import Policy

TYPE = "airlock-receipt+jws"


def load_or_make_key(path: Path) -> Ed25519PrivateKey:
    """The signing key in this PEM file, made on first use. Raises Misconfigured."""
    pem = made_once(
        path,
        lambda: Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    return key_in(pem, "AIRLOCK_RECEIPT_KEY_FILE")


def key_in(pem: bytes, name: str) -> Ed25519PrivateKey:
    """The signing key in this PEM text, which the setting `name` gives. Raises Misconfigured."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Misconfigured(f"{name} does not hold an unencrypted PEM private key.") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{name} does not hold an Ed25519 key.")
    return key


class ReceiptSigner:
    """Signs receipts with one key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @cached_property
    def public_pem(self) -> bytes:
        """The public key, to be handed to whoever verifies."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @cached_property
    def key_id(self) -> str:
        """A short name for the key: the start of its SHA-256."""
        return hashlib.sha256(self.public_pem).hexdigest()[:16]

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key as a JSON Web Key Set (RFC 7517)."""
        key: dict[str, str] = json.loads(OKPAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**key, "kid": self.key_id, "use": "sig", "alg": "EdDSA"}]}

    def sign(self, document: Document, parts: Sequence[Part], verdicts: Sequence[VerdictRecord], policy: Policy) -> str:
        """The receipt of one document. Holds digests, verdicts and versions; no name and no text of the sender's."""
        claims = {
            "iss": "airlock",
            "sub": str(document.id),
            "iat": int(datetime.now(UTC).timestamp()),
            "tenant": document.tenant,
            "policy": policy.digest,
            "parts": [
                {"part": part.name, "sha256": part.sha256, "size": part.size, "media_type": part.media_type}
                for part in parts
            ],
            "verdicts": [_verdict(record) for record in verdicts],
        }
        payload = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
        return PyJWS().encode(payload, self._key, algorithm="EdDSA", headers={"kid": self.key_id, "typ": TYPE})


def _verdict(record: VerdictRecord) -> dict[str, object]:
    engine = record.result.engine
    signed_at = engine.signatures_at if engine else None
    return {
        "part": record.part,
        "sha256": record.sha256,
        "scanner": record.result.scanner,
        "verdict": record.result.verdict.value,
        "engine": f"{engine.name} {engine.version}".strip() if engine else None,
        "signatures": engine.signatures if engine else None,
        "signatures_at": signed_at.isoformat() if signed_at else None,
        "at": record.at.isoformat() if record.at else None,
    }


def public_key(text: bytes, key_id: str | None = None) -> Ed25519PublicKey:
    """Read a public key from PEM or from a JWK Set. Raises BadRequest."""
    try:
        if text.lstrip().startswith(b"{"):
            keys: list[dict[str, Any]] = json.loads(text)["keys"]
            chosen = next((key for key in keys if key_id in (None, key.get("kid"))), None)
            if chosen is None:
                raise BadRequest("The key set does not hold the key that signed this receipt.")
            key: object = OKPAlgorithm.from_jwk(chosen)
        else:
            key = load_pem_public_key(text)
    except (ValueError, KeyError, TypeError, InvalidTokenError, UnsupportedAlgorithm) as exc:
        raise BadRequest("That is neither a PEM public key nor a JWK Set.") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise BadRequest("That is not an Ed25519 public key.")
    return key


def verify_receipt(file: Path, receipt: str, key_text: bytes) -> Mapping[str, Any]:
    """Check a file against a receipt, offline; gives the receipt's claims and the part that the file is.

    Raises:
        BadRequest: the receipt cannot be read, or this key did not sign it.
        DigestMismatch: the receipt is genuine, but of other bytes, or not every verdict on them is clean.
    """
    token = receipt.strip()
    try:
        header = PyJWS().get_unverified_header(token)
        decoded = PyJWS().decode(token, public_key(key_text, header.get("kid")), algorithms=["EdDSA"])
        claims: dict[str, Any] = json.loads(decoded)
    except (InvalidTokenError, ValueError) as exc:
        raise BadRequest("The receipt is damaged, or was not signed with this key.") from exc
    if header.get("typ") != TYPE:
        raise BadRequest("That is a signed token, but not a clearance receipt.")
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    part = next((part["part"] for part in claims["parts"] if part["sha256"] == digest), None)
    if part is None:
        raise DigestMismatch("The receipt is genuine, but it is about other bytes than this file's.")
    about = [v["verdict"] for v in claims["verdicts"] if v["sha256"] == digest]
    if not about or set(about) != {"clean"}:
        raise DigestMismatch("The receipt is genuine, but holds no clean verdict on these bytes.")
    return {**claims, "matched": part}

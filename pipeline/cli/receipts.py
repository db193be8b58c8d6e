"""`airlock verify-receipt`: a file against its clearance receipt, offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import load_settings, plain, say
from pipeline.errors import AirlockError, BadRequest

RECEIPT_LIMIT = 1 << 20


def verify_receipt(
    file: Annotated[Path, typer.Argument(help="The bytes in question.")],
    receipt: Annotated[Path, typer.Argument(help="The receipt, as `/v1/documents/{id}/receipt` gave it.")],
    key: Annotated[
        Path | None, typer.Option(help="Public key: PEM or JWK Set. Default: this installation's own.")
    ] = None,
) -> None:
    """Check that exactly these bytes were found clean, and by whom. Needs no network."""
    from pipeline import receipts

    claims = receipts.verify_receipt(_readable(file), _text(receipt).decode("ascii", "replace"), _key(key))
    issued = datetime.fromtimestamp(int(claims["iat"]), UTC)
    say(f"{plain(file)} is genuine: these bytes are the {plain(claims['matched'])} of document {plain(claims['sub'])}.")
    say(f"  cleared    {issued:%Y-%m-%d %H:%M:%S} UTC, under policy {plain(claims['policy'])[:16]}")
    for verdict in claims["verdicts"]:
        if verdict["part"] == claims["matched"]:
            signatures = f", signatures {plain(verdict['signatures'])}" if verdict.get("signatures") else ""
            engine = plain(verdict.get("engine") or verdict["scanner"])
            say(f"  verdict    {plain(verdict['verdict'])} by {engine}{signatures}")


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as exc:
        raise AirlockError(f"{plain(path)} cannot be read: {exc.strerror}.") from exc
    return path


def _text(path: Path) -> bytes:
    with _readable(path).open("rb") as source:
        text = source.read(RECEIPT_LIMIT + 1)
    if len(text) > RECEIPT_LIMIT:
        raise BadRequest(f"{plain(path)} is too long for a receipt or a key.")
    return text


def _key(path: Path | None) -> bytes:
    if path is not None:
        return _text(path)
    from pipeline.receipts import ReceiptSigner, load_or_make_key

    settings = load_settings()
    own = settings.receipt_key_file or settings.var_dir / "keys" / "receipt.pem"
    if not own.exists():
        raise BadRequest(
            "Name the public key with --key: save /.well-known/airlock-receipt-keys.json of the Airlock that signed it."
        )
    return ReceiptSigner(load_or_make_key(own)).public_pem

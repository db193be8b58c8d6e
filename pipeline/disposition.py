"""The Content-Disposition under which a document is served (RFC 6266, OWASP ASVS 5.0 5.4.1 and 5.4.2)."""

from __future__ import annotations

from urllib.parse import quote


def attachment(name: str | None) -> str:
    """Makes every browser save the file, under its name where it has one: one header line, printable ASCII only."""
    if name is None:
        return "attachment"
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"

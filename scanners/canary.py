"""Small files that an engine must not call clean. If it does, it is not fit to judge anything else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from functools import cache

# The EICAR test file, in two parts, so that no engine takes offence at this one.
_EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-" + rb"ANTIVIRUS-TEST-FILE!$H+H*"
# clamd refuses to be told to go deeper than 100, so this is beyond every MaxRecursion.
_DEPTH = 110


def eicar() -> bytes:
    """The test file that every antivirus engine finds by agreement."""
    return _EICAR


def zipped(content: bytes, name: str = "canary.txt") -> bytes:
    """A zip of one stored member; the same bytes each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def nested(content: bytes, depth: int) -> bytes:
    """`content` inside that many zips."""
    for _ in range(depth):
        content = zipped(content, "canary.zip")
    return content


def encrypted_zip() -> bytes:
    """A zip whose one member is marked as encrypted (its content is no secret: engines go by the mark)."""
    archive = bytearray(zipped(bytes(64)))
    archive[archive.index(b"PK\x03\x04") + 6] |= 1
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(archive)


@cache
def canaries() -> Mapping[str, bytes]:
    """Each canary by name: `eicar` must be found, the others must not be called clean."""
    return {"eicar": _EICAR, "nested": nested(_EICAR, _DEPTH), "encrypted": encrypted_zip()}

"""`Idempotency-Key` as the IETF draft has it (draft-ietf-httpapi-idempotency-key-header).

No row is written before the body has arrived, so a crash can leave no key pending. Two requests at once with one key
both send their bytes; one commits, the other drops its own and answers what the first one did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.errors import BadRequest

# A structured-field string, or what most clients send: the bare text.
_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,255})"|([!#-~]{1,255})')


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The request's key. Raises BadRequest for one that cannot be a key."""
    value = headers.get("idempotency-key")
    if value is None:
        return None
    match = _KEY.fullmatch(value.strip())
    if match is None:
        raise BadRequest('Idempotency-Key is 1 to 255 printable ASCII characters, best a UUID in quotes: "8e0397-...".')
    return re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]

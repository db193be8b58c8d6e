"""The state of the Cloud Storage double: buckets of objects that have generations, and their conditions."""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import google_crc32c


class Refused(Exception):
    """An HTTP status that is not a success."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Held:
    """One generation of one object."""

    bucket: str
    key: str
    generation: int
    body: bytes
    resource: Mapping[str, Any]  # what the client set: contentType, contentDisposition, metadata
    updated: str
    components: int = 0  # of a composed object, which has no MD5

    @cached_property
    def _md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.body).digest()).decode()

    @cached_property
    def _crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.body).to_bytes(4, "big")).decode()

    def answer(self) -> dict[str, Any]:
        """The object's resource, as the JSON API shows it."""
        return {
            "kind": "storage#object",
            "bucket": self.bucket,
            "name": self.key,
            "generation": str(self.generation),
            "metageneration": "1",
            "size": str(len(self.body)),
            "updated": self.updated,
            "timeCreated": self.updated,
            "etag": f"etag{self.generation}",
            "crc32c": self._crc32c,
            **({"componentCount": self.components} if self.components else
               {"md5Hash": self._md5}),
            **{name: self.resource[name] for name in ("contentType", "contentDisposition", "metadata")
               if self.resource.get(name)},
        }  # fmt: skip


class Buckets:
    """Objects without old versions: a replaced generation is gone, as in a bucket without versioning."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, dict[str, Held]] = {}
        self.rewrites: dict[str, int] = {}
        self._generations = itertools.count(1_700_000_000_000_001)

    def find(self, bucket: str, key: str, generation: str | None = None) -> Held:
        """That object, 404 if it is not there or another generation is."""
        held = self.bucket(bucket).get(key)
        if held is None or generation not in (None, str(held.generation)):
            raise Refused(404)
        return held

    def bucket(self, bucket: str) -> dict[str, Held]:
        """Its objects, 404 if there is no such bucket."""
        if bucket not in self.objects:
            raise Refused(404)
        return self.objects[bucket]

    def put(
        self, bucket: str, key: str, body: bytes, resource: Mapping[str, Any], match: str | None, components: int = 0
    ) -> Held:
        """A new generation, 412 where the condition does not hold, 400 where the bytes are not those announced."""
        with self.lock:
            objects = self.bucket(bucket)
            there = objects.get(key)
            if match is not None and match != str(there.generation if there else 0):
                raise Refused(412)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            held = Held(bucket, key, next(self._generations), body, resource, now, components)
            if resource.get("crc32c") not in (None, held.answer()["crc32c"]):
                raise Refused(400)
            objects[key] = held
            return held

    def remove(self, bucket: str, key: str, generation: str | None, match: str | None) -> None:
        """Delete, 404 or 412 where it is not the one that was named."""
        with self.lock:
            held = self.find(bucket, key, generation)
            if match is not None and match != str(held.generation):
                raise Refused(412)
            del self.objects[bucket][key]

    def rewrite(self, source: tuple[str, str], target: tuple[str, str], query: Mapping[str, str], resource: Any) -> Any:
        """Copy; large objects take a second call with the token of the first."""
        with self.lock:
            held = self.find(*source, query.get("sourceGeneration"))
            if query.get("ifSourceGenerationMatch") not in (None, str(held.generation)):
                raise Refused(412)
            size = str(len(held.body))
            token = query.get("rewriteToken")
            if token is not None and self.rewrites.pop(token, None) != held.generation:
                raise Refused(400)
            if token is None and len(held.body) > 1 << 20:
                there = self.bucket(target[0]).get(target[1])
                if query.get("ifGenerationMatch") not in (None, str(there.generation if there else 0)):
                    raise Refused(412)
                token = f"token{len(self.rewrites)}-{held.generation}"
                self.rewrites[token] = held.generation
                return {"done": False, "rewriteToken": token, "totalBytesRewritten": str(1 << 20), "objectSize": size}
            kept = resource or held.resource
            made = self.put(*target, held.body, {**kept, "crc32c": None}, query.get("ifGenerationMatch"))
            return {"done": True, "totalBytesRewritten": size, "objectSize": size, "resource": made.answer()}

    def compose(self, bucket: str, key: str, request: Mapping[str, Any], match: str | None) -> Held:
        """Join, 1 to 32 at once: 404 where a generation is gone, 412 where a condition does not hold."""
        with self.lock:
            if not 1 <= len(request["sourceObjects"]) <= 32:
                raise Refused(400)
            sources = []
            for each in request["sourceObjects"]:
                held = self.find(bucket, each["name"])
                if each.get("objectPreconditions", {}).get("ifGenerationMatch") not in (None, held.generation):
                    raise Refused(412)
                sources.append(self.find(bucket, each["name"], str(each.get("generation") or held.generation)))
            components = sum(max(1, held.components) for held in sources)
            body = b"".join(held.body for held in sources)
            return self.put(bucket, key, body, {**request["destination"], "crc32c": None}, match, components)

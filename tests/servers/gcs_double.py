"""A double of Cloud Storage: generations, conditions, resumable uploads, V4 signed URLs. The real SDK talks to it.

Written after the public reference of the JSON and XML APIs. It refuses what Google refuses: tokens it did not issue,
URLs it cannot verify or that are over, conditions that do not hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers.gcs_objects import Buckets, Held, Refused
from tests.servers.gcs_sessions import Sessions

AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever the key file's token_uri says
ACCOUNT = "airlock@tests.iam.gserviceaccount.com"


@dataclass(frozen=True)
class GCSDouble:
    """Where it listens, the key file that opens it, and what it holds."""

    endpoint: str
    key_file: Path
    buckets: Buckets
    sessions: Sessions

    def environment(self) -> dict[str, str]:
        """What the SDK reads its credentials from."""
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(self.key_file), "GOOGLE_CLOUD_PROJECT": "tests"}

    def url(self, bucket: str) -> str:
        """The bucket's URL, as `open_store` takes it."""
        return f"gs://{bucket}?endpoint={self.endpoint}"


@contextlib.contextmanager
def gcs_double(folder: Path) -> Iterator[GCSDouble]:
    """Serve until the block ends. The service account's key is made here, and is worth nothing anywhere else."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    objects = Buckets()

    class Door(_Door):
        buckets = objects
        sessions = Sessions(objects)
        public = key.public_key()
        tokens = set()  # noqa: RUF012 - one class a server

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        server.daemon_threads = True
        server.block_on_close = False  # the SDK keeps its connections open
        endpoint = f"http://127.0.0.1:{server.server_port}"
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key_file = folder / "service-account.json"
        account = {
            "type": "service_account",
            "project_id": "tests",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": ACCOUNT,
            "token_uri": f"{endpoint}/token",
        }
        key_file.write_text(json.dumps(account))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield GCSDouble(endpoint, key_file, Door.buckets, Door.sessions)
        finally:
            server.shutdown()
            thread.join()


class _Door(BaseHTTPRequestHandler):
    buckets: Buckets
    sessions: Sessions
    public: rsa.RSAPublicKey
    tokens: set[str]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            if url.path == "/token":
                return self._token(body)
            if url.path.startswith("/upload/storage/v1/") and "upload_id" in query:
                return self._resume(query["upload_id"], body)
            if url.path.startswith(("/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/")):
                if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
                    return self._answer(401, {"error": {"code": 401, "message": "no such token"}})
                path = url.path.removeprefix("/upload").removeprefix("/download").removeprefix("/storage/v1/")
                steps = [unquote(step) for step in path.split("/")]
                if url.path.startswith("/upload"):
                    return self._upload(steps[1], query, body)
                return self._json_api(steps, query, body)
            return self._signed(url.path, query, body)
        except Refused as refused:
            return self._answer(refused.status, {"error": {"code": refused.status, "message": "refused"}})

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815

    def _token(self, body: bytes) -> None:
        assertion = dict(parse_qsl(body.decode()))["assertion"]
        jwt.decode(assertion, self.public, algorithms=["RS256"], audience=AUDIENCE, issuer=ACCOUNT)
        token = secrets.token_hex(8)
        self.tokens.add(token)
        self._answer(200, {"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _json_api(self, steps: list[str], query: dict[str, str], body: bytes) -> None:
        match self.command, steps:
            case "POST", ["b"]:
                name = json.loads(body)["name"]
                if name in self.buckets.objects:
                    raise Refused(409)
                self.buckets.objects[name] = {}
                self._answer(200, {"kind": "storage#bucket", "name": name, "id": name})
            case "PATCH", ["b", bucket]:
                self.buckets.bucket(bucket)
                self._answer(200, {"kind": "storage#bucket", "name": bucket, "id": bucket} | json.loads(body))
            case "GET", ["b", bucket, "o"]:
                self._list(bucket, query)
            case "GET", ["b", bucket, "o", key]:
                held = self.buckets.find(bucket, key, query.get("generation"))
                if query.get("alt") == "media":
                    self._media(held)
                else:
                    self._answer(200, held.answer())
            case "DELETE", ["b", bucket, "o", key]:
                self.buckets.remove(bucket, key, query.get("generation"), query.get("ifGenerationMatch"))
                self._answer(204)
            case "POST", ["b", bucket, "o", key, "compose"]:
                made = self.buckets.compose(bucket, key, json.loads(body), query.get("ifGenerationMatch"))
                self._answer(200, made.answer())
            case "POST", ["b", bucket, "o", key, "rewriteTo", "b", other, "o", target]:
                resource = json.loads(body) if body else {}
                self._answer(200, self.buckets.rewrite((bucket, key), (other, target), query, resource))
            case _:
                raise Refused(404)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        size = min(int(query.get("maxResults", "10")), 10)  # small pages, so that every listing has several
        start, after = query.get("startOffset", ""), query.get("pageToken", "")
        found = [
            held
            for key, held in sorted(self.buckets.bucket(bucket).items())
            if key.startswith(query.get("prefix", "")) and key >= start and key > after
        ]
        page: dict[str, Any] = {"kind": "storage#objects", "items": [held.answer() for held in found[:size]]}
        if len(found) > size:
            page["nextPageToken"] = found[size - 1].key
        self._answer(200, page)

    def _upload(self, bucket: str, query: dict[str, str], body: bytes) -> None:
        self.buckets.bucket(bucket)
        condition = query.get("ifGenerationMatch")
        if query["uploadType"] == "multipart":
            boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            described, _, rest = body.removeprefix(boundary).partition(b"\r\n\r\n")[2].partition(b"\r\n" + boundary)
            content = rest.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n" + boundary + b"--")
            resource = json.loads(described)
            self._answer(200, self.buckets.put(bucket, resource["name"], content, resource, condition).answer())
        elif query["uploadType"] == "resumable":
            session = self.sessions.begin(bucket, json.loads(body), condition, self.headers)
            place = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            where = f"{place}?{urlencode({'uploadType': 'resumable', 'upload_id': session})}"
            self._answer(200, None, {"Location": where})

    def _resume(self, session: str, body: bytes) -> None:
        """No token is needed: the URL is one."""
        allowed = {"Access-Control-Allow-Origin": origin} if (origin := self.sessions.find(session).origin) else {}
        if self.command == "DELETE":
            return self.sessions.end(session)
        reached = self.sessions.send(session, body, self.headers)
        if isinstance(reached, Held):
            return self._answer(200, reached.answer(), allowed)
        return self._answer(308, None, allowed | ({"Range": f"bytes=0-{reached - 1}"} if reached else {}))

    def _signed(self, path: str, query: dict[str, str], body: bytes) -> None:
        """The XML API, for signed URLs only."""
        self._verify(path, dict(query))
        bucket, _, key = unquote(path[1:]).partition("/")
        if self.command == "GET":
            return self._media(self.buckets.find(bucket, key, query.get("generation")))
        if self.command != "PUT":
            raise Refused(403)
        least, _, most = self.headers.get("x-goog-content-length-range", f"0,{1 << 40}").partition(",")
        if not int(least) <= len(body) <= int(most):
            raise Refused(400)
        resource = {
            "contentType": self.headers["Content-Type"],
            "contentDisposition": self.headers.get("Content-Disposition"),
            "metadata": {
                name[12:].lower(): value
                for name, value in self.headers.items()
                if name.lower().startswith("x-goog-meta-")
            },
        }
        self.buckets.put(bucket, key, body, resource, self.headers.get("x-goog-if-generation-match"))
        return self._answer(200)

    def _verify(self, path: str, query: dict[str, str]) -> None:
        try:
            signature = bytes.fromhex(query.pop("X-Goog-Signature"))
            names = query["X-Goog-SignedHeaders"].split(";")
            begun = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if datetime.now(UTC) > begun + timedelta(seconds=int(query["X-Goog-Expires"])):
                raise Refused(400)
            scope = query["X-Goog-Credential"].partition("/")[2]
            canonical = "\n".join(
                [
                    self.command,
                    path,
                    "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items())),
                    *(f"{name}:{' '.join(self.headers.get(name, '').split())}" for name in names),
                    "",
                    query["X-Goog-SignedHeaders"],
                    self.headers.get("x-goog-content-sha256", "UNSIGNED-PAYLOAD"),
                ]
            )
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
            self.public.verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (KeyError, ValueError, InvalidSignature):
            raise Refused(403) from None

    def _media(self, held: Held) -> None:
        body, status, extra = held.body, 200, {"Content-Type": held.resource.get("contentType") or "binary/x"}
        if held.resource.get("contentDisposition"):
            extra["Content-Disposition"] = held.resource["contentDisposition"]
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            if int(first) >= len(body):
                raise Refused(416)
            end = min(int(last or len(body) - 1), len(body) - 1)
            extra["Content-Range"] = f"bytes {first}-{end}/{len(body)}"
            body, status = body[int(first) : end + 1], 206
        self._answer(status, body, extra)

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in itertools.chain((headers or {"Content-Type": "application/json"}).items()):
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence."""

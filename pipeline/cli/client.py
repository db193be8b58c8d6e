"""The API as the commands use it, on the standard library: it starts at once, and it reads a refusal that comes while
the body is still being sent."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from pipeline.cli.console import plain
from pipeline.errors import AirlockError, Misconfigured, Unavailable

Body = Callable[[], Iterator[bytes]]
ATTEMPTS = 4
AGAIN = frozenset({429, 502, 503, 504})


class Refused(AirlockError):
    """The API said no: its problem document as one sentence."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(sentence(status, problem))
        self.http_status = status
        self.kind = str(problem.get("type", "")).rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    def json(self) -> Any:
        """The content, decoded. Raises AirlockError if it is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError as exc:
            raise AirlockError(
                "The API's answer cannot be read: is AIRLOCK_API_URL the address of an Airlock?"
            ) from exc


class Client:
    """Talks to one API with one key. Safe to use from several threads: each call has its own connection."""

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout: float = 120.0) -> None:
        """Raises Misconfigured without an address or a key."""
        url = url or os.environ.get("AIRLOCK_API_URL") or "http://127.0.0.1:8000"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured("AIRLOCK_API_URL must be an http:// or https:// address.")
        key = key or os.environ.get("AIRLOCK_API_KEY")
        if not key:
            raise Misconfigured(
                "No API key: set AIRLOCK_API_KEY to the one that `airlock run` showed at its first start, "
                "or make one with `airlock keys create TENANT`."
            )
        if not key.isascii() or not key.isprintable():
            raise Misconfigured("AIRLOCK_API_KEY holds characters that no API key has: copy it again.")
        self._scheme, self._host, self._port, self._base = (
            parts.scheme,
            parts.hostname,
            parts.port,
            parts.path.rstrip("/"),
        )
        self._key = key
        self._timeout = timeout

    @property
    def address(self) -> str:
        """Where it talks to, for messages."""
        return f"{self._scheme}://{self._host}{f':{self._port}' if self._port else ''}{self._base}"

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Reply:
        """GET. Raises Refused for 4xx and 5xx, Unavailable without an answer."""
        return self.call("GET", f"{path}?{urlencode(query, doseq=True)}" if query else path)

    def call(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Body | None = None) -> Reply:
        """One request; again after a fault that may pass (`body` is asked for its bytes anew each time).

        Raises:
            Refused: the API's answer is an error.
            Unavailable: there was no answer.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply = self._once(method, path, headers or {}, body)
            except (OSError, http.client.HTTPException) as exc:
                refused = isinstance(exc, ConnectionRefusedError) and attempt == 1
                if refused or attempt == ATTEMPTS:
                    raise self._unreachable(exc) from exc
                time.sleep(0.5 * 2**attempt)
                continue
            if reply.status < 400:
                return reply
            if reply.status not in AGAIN or attempt == ATTEMPTS:
                raise Refused(reply.status, problem_of(reply))
            time.sleep(min(_seconds(reply.headers.get("Retry-After")), 30))
        raise AssertionError

    @contextlib.contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[http.client.HTTPResponse]:
        """A response that is read as it comes. Raises as `call` does, and whoever reads on OSError."""
        connection = self._connect()
        try:
            try:
                connection.request("GET", self._base + path, headers={**self._headers(), **headers})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as exc:
                raise self._unreachable(exc) from exc
            if response.status >= 400:
                raise Refused(response.status, problem_of(Reply(response.status, response.headers, response.read())))
            yield response
        finally:
            connection.close()

    def _once(self, method: str, path: str, headers: Mapping[str, str], body: Body | None) -> Reply:
        connection = self._connect()
        try:
            try:
                connection.request(method, self._base + path, body() if body else None, {**self._headers(), **headers})
            except (BrokenPipeError, ConnectionResetError):
                # It stopped listening: mostly because it has already said why.
                if connection.sock is None:
                    raise
                response = http.client.HTTPResponse(connection.sock, method=method)
                response.begin()
                return Reply(response.status, response.headers, response.read())
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}", "User-Agent": "airlock-cli", "Accept": "application/json"}

    def _unreachable(self, exc: Exception) -> Unavailable:
        why = (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
        return Unavailable(
            f"No answer from {self.address} ({why}): start Airlock with `make run` or `airlock run`, "
            "or set AIRLOCK_API_URL to where it is."
        )


def problem_of(reply: Reply) -> Mapping[str, Any]:
    """The problem document of an error, or one made up of the status."""
    with contextlib.suppress(ValueError):
        found = json.loads(reply.content)
        if isinstance(found, dict):
            return found
    return {"title": http.client.responses.get(reply.status, "Error"), "detail": "", "type": ""}


def sentence(status: int, problem: Mapping[str, Any]) -> str:
    """What, which limit, what to do."""
    title, detail = plain(problem.get("title") or "Error").rstrip("."), plain(problem.get("detail") or "").rstrip(".")
    said = detail if detail.startswith(title) else f"{title}: {detail}" if detail else title
    todo = {
        401: "Set AIRLOCK_API_KEY to a valid key; `airlock keys create TENANT` makes one",
        403: "Use a key with that scope; `airlock keys create TENANT --scope ...` makes one",
        413: "Send a smaller file, or raise the limit in the policy",
        429: "Try again later",
        503: "Try again later; `airlock doctor` shows what is down",
    }.get(status)
    number = plain(problem.get("correlation_id") or "")
    reference = f" (HTTP {status}, correlation id {number})" if number and status >= 500 else f" (HTTP {status})"
    return f"{said}{reference}." + (f" {todo}." if todo else "")


def _seconds(value: str | None) -> float:
    return float(value) if value and value.isdigit() else 2.0

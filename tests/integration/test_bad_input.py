"""What clients should never send: each gets a clear 4xx, nothing is left of it, and others are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from ingest_api import wire
from ingest_api.uploads import stream
from tests.integration.api_server import Api

PART = 'Content-Disposition: form-data; name="f"; filename="a.txt"'
FORM = "multipart/form-data; boundary=b"


def form(*parts: str | bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + (part.encode() if isinstance(part, str) else part) for part in parts) + end


def send(api: Api, body: bytes, content_type: str | None = FORM, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {**({"Content-Type": content_type} if content_type else {}), **headers}
    answer = api.client.post("/v1/documents", content=body, headers=sent)
    return answer.status_code, answer.json()


def raw_answer(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    """The one answer on a connection that the server then closes (or that is complete by its length)."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            received += chunk
            head, _, body = received.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if lengths and len(body) >= int(lengths[0].partition(b":")[2]):
                break
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def request_head(api: Api, *lines: str) -> bytes:
    start = ["POST /v1/documents HTTP/1.1", "Host: x", f"Authorization: Bearer {api.key}"]
    return ("\r\n".join([*start, *lines]) + "\r\n\r\n").encode("latin-1")


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", None, "empty-file"),
        (b"", "application/pdf", "empty-file"),
        (b"", FORM, "malformed-request"),
        (b"--b--\r\n", FORM, "no-file"),
        (form('Content-Disposition: form-data; name="f"\r\n\r\ntext\r\n'), FORM, "no-file"),
        (form('Content-Disposition: form-data; name="f"; filename=""\r\n\r\n\r\n'), FORM, "no-file"),
        (form(PART + "\r\n\r\n\r\n"), FORM, "empty-file"),
        (form(PART + "\r\n\r\nx\r\n", PART + "\r\n\r\n\r\n"), FORM, "empty-file"),
        (form(PART + "\r\n\r\nx\r\n", end=b""), FORM, "malformed-request"),
        (form(PART + "\r\n\r\nx"), FORM, "malformed-request"),
        (form(PART + "\r\n\r\nx\r\n", "oops"), FORM, "malformed-request"),
        (form("\r\nx\r\n"), FORM, "malformed-request"),
        (form("Content-Disposition: attachment\r\n\r\nx\r\n"), FORM, "malformed-request"),
        (form(PART + "\r\nContent-Length: 99\r\n\r\nx\r\n"), FORM, "malformed-request"),
        (form(PART + "\r\nContent-Length: -1\r\n\r\nx\r\n"), FORM, "malformed-request"),
        (form(PART + f"\r\nContent-Length: {1 << 40}\r\n\r\nx\r\n"), FORM, "too-large"),
        (form(PART.encode() + b'; x="\xff\xfe"\r\n\r\nx\r\n'), FORM, "malformed-request"),
        (form(PART + "\r\nX-Long: " + "x" * 70_000 + "\r\n\r\nx\r\n"), FORM, "too-large"),
        (form(PART + "\r\nX: y" * 20 + "\r\n\r\nx\r\n"), FORM, "too-large"),
        (form(PART + "\r\nContent-Transfer-Encoding: base64\r\n\r\neA==\r\n"), FORM, "unsupported-content"),
        (b"not a form at all", FORM, "malformed-request"),
        (b"x", "multipart/form-data", "malformed-request"),
        (b"x", "multipart/form-data; boundary=" + "b" * 100, "malformed-request"),
        (b"x", "multipart/related; boundary=b", "malformed-request"),
        (form(*['Content-Disposition: form-data; name="f"\r\n\r\ntext\r\n'] * 101), FORM, "too-large"),
        (form('Content-Disposition: form-data; name="f"\r\n\r\n' + "t" * 70_000 + "\r\n"), FORM, "too-large"),
    ],
)
def test_a_body_that_cannot_be_taken_is_a_clear_problem(
    api: Api, body: bytes, content_type: str | None, code: str
) -> None:
    status, problem = send(api, body, content_type)
    assert 400 <= status < 500
    assert problem["type"] == f"/problems/{code}", problem
    assert len(problem["detail"]) > 15
    assert api.objects() == api.documents() == api.leftovers() == []


def test_an_empty_part_is_named_by_its_place(api: Api) -> None:
    _, problem = send(api, form(PART + "\r\n\r\nx\r\n", PART + "\r\n\r\nx\r\n", PART + "\r\n\r\n\r\n"))
    assert problem["part_index"] == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Digest": "sha-256=:AAAA:"}, 400),
        ({"Idempotency-Key": "x" * 256}, 400),
        ({"Content-Type": "nonsense"}, 202),  # what it is, is looked at later
        ({"Content-Type": "image/png; " + "x" * 1000}, 202),
        ({"Content-Disposition": "attachment; filename*=utf-16''%00%00"}, 202),
        ({"Content-Disposition": 'attachment; filename="' + "n" * 10_000 + '.pdf"'}, 202),
    ],
)
def test_headers_are_refused_or_harmless(api: Api, headers: dict[str, str], status: int) -> None:
    answer = api.client.post("/v1/documents", content=b"x", headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "name", ["n" * 10_000 + ".pdf", "📄" * 10_000 + ".pdf", "\u202efdp.exe", "a\x00b", "../../x", "%00%0d%0a", "'\";--"]
)
@pytest.mark.asvs("5.4.2")
def test_a_forms_file_name_can_be_anything(api: Api, name: str) -> None:
    quoted = name.replace('"', "%22")
    status, document = send(api, form(f'Content-Disposition: form-data; name="f"; filename="{quoted}"\r\n\r\nx\r\n'))
    assert status == 202, document
    assert len(document["name"].encode()) <= 255
    assert not {"/", "\x00", "\u202e", "\r", "\n"} & set(document["name"])
    assert api.client.get(document["links"]["self"]).json()["name"] == document["name"]


def endless_fields(count: int) -> Iterator[bytes]:
    field = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nv\r\n'
    for _ in range(count // 1000):
        yield field * 1000
    yield b"--b--\r\n"


def test_a_million_form_fields(api: Api) -> None:
    answer = api.client.post("/v1/documents", content=endless_fields(1_000_000), headers={"Content-Type": FORM})
    assert answer.status_code == 413
    assert answer.json()["limit"] == {"name": "text fields", "value": 100}


@pytest.mark.parametrize("filler", [b"\r\n" * 32768, b"-" * 65536, b"\r" * 65536, b"\r\n--c\r\n-" * 8192])
@pytest.mark.parametrize("where", ["preamble", "epilogue", "content"])
def test_junk_around_and_inside_a_part(api: Api, filler: bytes, where: str) -> None:
    junk = filler * 64  # 4 MiB
    part = f"{PART}\r\n\r\n".encode()
    body = {
        "preamble": junk + b"\r\n" + form(part + b"x\r\n"),
        "epilogue": form(part + b"x\r\n") + junk,
        "content": form(part + junk + b"\r\n"),
    }[where]
    status, document = send(api, body)
    assert status == 202, document
    assert document["size"] == (len(junk) if where == "content" else 1)


@pytest.mark.cwe("CWE-400")
@pytest.mark.parametrize(
    "head",
    [
        "X-Huge: " + "x" * 200_000,
        "\r\n".join(f"X-{n}: y" for n in range(3000)),
        "X-Open: " + "x" * 100_000 + "...",
    ],
    ids=["one", "many", "another"],
)
def test_huge_headers(api: Api, head: str) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, "Content-Length: 0", head))
        status, problem = raw_answer(sock)
    assert (status, problem["type"]) == (431, "/problems/head-too-large")


@pytest.mark.cwe("CWE-400")
def test_a_header_that_never_ends(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX-Endless: ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                sock.sendall(b"x" * 65536)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(65536).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: -1",),
        ("Content-Length: abc",),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 99999999999999999999999",),
        ("Transfer-Encoding: gzip",),
    ],
)
@pytest.mark.cwe("CWE-444")
def test_framing_that_two_servers_could_read_in_two_ways(api: Api, lines: tuple[str, ...]) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, *lines) + b"0\r\n\r\n")
        status, problem = raw_answer(sock)
    assert 400 <= status < 500
    assert problem["status"] == status
    assert api.objects() == api.documents() == []


@pytest.mark.parametrize("junk", [b"zz\r\nhello\r\n", b"5\r\nhelloXX", b"-5\r\nhello\r\n", b"ffffffffffffffffff\r\n"])
def test_chunks_that_are_junk(api: Api, junk: bytes) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, "Transfer-Encoding: chunked") + b"5\r\nhello\r\n" + junk)
        sock.shutdown(socket.SHUT_WR)
        status, problem = raw_answer(sock)
    assert (status, problem["type"]) == (400, "/problems/malformed-request")
    assert api.client.get("/livez").status_code == 200
    assert api.documents() == []


def test_not_http_at_all(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        status, problem = raw_answer(sock)
    assert (status, problem["type"]) == (400, "/problems/malformed-request")


def test_a_body_shorter_than_its_length(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, "Content-Length: 100") + b"only this")
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert not sock.recv(65536).startswith(b"HTTP/1.1 2")
    assert api.objects() == api.documents() == api.leftovers() == []


def test_a_body_that_falls_silent_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.05)
    with api.connect() as sock:
        sock.sendall(request_head(api, "Content-Length: 3000000") + bytes(1_100_000))
        status, problem = raw_answer(sock)
    assert (status, problem["type"]) == (408, "/problems/stalled")
    assert api.objects() == api.documents() == api.leftovers() == []


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nX-Slow: "])
def test_a_head_that_falls_silent_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.05)
    with api.connect() as sock:
        sock.sendall(said)
        status, problem = raw_answer(sock)
    assert (status, problem["type"]) == (408, "/problems/head-too-slow")


def test_silent_and_slow_clients_keep_nobody_waiting(api: Api) -> None:
    with contextlib.ExitStack() as stack:
        waiting = []
        for number in range(64):  # twice as many as there are threads for bytes
            sock = stack.enter_context(api.connect())
            way = "Content-Type: " + FORM if number % 2 else "Content-Type: text/plain"
            sock.sendall(request_head(api, way, "Content-Length: 3000000"))
            sock.sendall(form(PART + "\r\n\r\n", end=b"") + bytes(1_100_000))
            waiting.append(sock)
        for _ in range(10):
            assert api.client.post("/v1/documents", content=b"x" * 100_000).status_code == 202
            assert api.client.get("/livez").status_code == 200
            assert len(api.documents()) > 0
        assert len(api.documents()) == 10


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not-found"),
        ("PATCH", "/v1/documents", 405, "method-not-allowed"),
        ("GET", "/v1/documents/not-a-uuid", 404, "not-found"),
        ("GET", "/v1/documents?limit=0", 422, "invalid-parameters"),
        ("GET", "/v1/documents?limit=x&state=nowhere", 422, "invalid-parameters"),
        ("GET", "/v1/documents?cursor=%00%ff", 400, "malformed-request"),
        ("GET", "/v1/documents?cursor=AAAA", 400, "malformed-request"),
        ("GET", "/v1/documents?sha256=xyz", 422, "invalid-parameters"),
        ("GET", "/v1/documents?created_after=yesterday", 422, "invalid-parameters"),
        ("GET", "/problems/nonsense", 404, "not-found"),
        ("GET", "/v1/objects/serving/standard/x?sig=%ff", 403, "forbidden"),
        ("GET", "/v1/objects/../../etc/passwd", 404, "not-found"),
    ],
)
def test_the_frameworks_errors_have_our_shape(api: Api, method: str, path: str, status: int, code: str) -> None:
    answer = api.client.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"/problems/{code}"
    if status == 405:
        assert answer.headers["allow"]

"""HTTP/1.1 bent on the wire: what is around the content is bounded too, and requests in a row stay apart."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from ingest_api import wire
from tests.integration.api_server import Api
from tests.integration.test_bad_input import raw_answer, request_head


def all_of(sock: socket.socket) -> bytes:
    received = b""
    while chunk := sock.recv(1 << 20):
        received += chunk
    return received


@pytest.mark.parametrize("start", [b"5\r\nhello\r\n0\r\nX-Endless: ", b"5;endless="])
def test_what_surrounds_the_content_cannot_be_endless(api: Api, start: bytes) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, "Transfer-Encoding: chunked") + start)
        # More than a socket takes without being read: it is refused while it comes, not after.
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                sock.sendall(b"a" * (1 << 20))
        with contextlib.suppress(ConnectionError, IndexError):
            assert raw_answer(sock)[0] == 431
    assert api.documents() == []
    assert api.objects() == []
    assert api.leftovers() == []


def test_small_trailers_and_extensions_do_no_harm(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, "Transfer-Encoding: chunked") + b"5;a=b\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n")
        status, body = raw_answer(sock)
    assert (status, body["size"]) == (202, 5)


def test_thousands_of_requests_in_a_row_are_each_answered(api: Api) -> None:
    count = 3000
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    asked = one * count + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert len(asked) > wire.HEAD_BYTES
    with api.connect() as sock:
        sending = threading.Thread(target=sock.sendall, args=(asked,))
        sending.start()
        answers = all_of(sock)
        sending.join()
    assert answers.count(b"HTTP/1.1 200 OK") == count + 1


def test_half_a_head_behind_a_long_body_harms_neither(api: Api) -> None:
    body = b"x" * (2 * wire.HEAD_BYTES)
    with api.connect() as sock:
        # In one packet as far as the server can tell: the body, and the start of what follows it.
        sock.sendall(request_head(api, f"Content-Length: {len(body)}") + body + b"GET /livez HTT")
        status, document = raw_answer(sock)
        assert (status, document["size"]) == (202, len(body))
        sock.sendall(b"P/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all_of(sock).startswith(b"HTTP/1.1 200 OK")


def test_a_coding_below_the_chunks_is_refused(api: Api) -> None:
    with api.connect() as sock:
        sock.sendall(request_head(api, "Transfer-Encoding: gzip, chunked") + b"5\r\nhello\r\n0\r\n\r\n")
        status, body = raw_answer(sock)
    assert (status, body["type"]) == (415, "/problems/unsupported-content")
    assert api.objects() == []


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/v1/documents", "GET, POST"), ("/v1/documents/00000000-0000-4000-8000-000000000000", "DELETE, GET")],
)
def test_allow_names_every_method_of_the_address(api: Api, path: str, allow: str) -> None:
    answer = api.client.patch(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)

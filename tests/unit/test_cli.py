"""The commands: what they say, and what they send."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.client import Client, Refused, sentence
from pipeline.cli.console import load_settings, plain
from pipeline.cli.follow import changes, parse
from pipeline.cli.upload import Sending, send
from pipeline.errors import AirlockError, Misconfigured, Unavailable
from pipeline.ledger.session import Ledger

SECRET = "alk_" + "s" * 43


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AIRLOCK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AIRLOCK_VAR_DIR", str(tmp_path / "var"))


class Server(http.server.ThreadingHTTPServer):
    """An API that answers as the test says: `answer(handler, n)` for the n-th request."""

    answer: Callable[[Any, int], None]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.count = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Counts, and lets the test answer."""

    server: Server

    def _do(self) -> None:
        self.server.count += 1
        self.server.answer(self, self.server.count)

    do_GET = do_POST = _do  # noqa: N815

    def reply(self, status: int, body: object, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url, SECRET, timeout=10)


def test_a_file_is_streamed_with_its_name(server: Server, client: Client, tmp_path: Path) -> None:
    path = tmp_path / 'a "quoted" Größe.csv'
    path.write_bytes(os.urandom((3 << 20) + 7))
    seen: dict[str, Any] = {}

    def answer(request: Handler, _: int) -> None:
        import hashlib

        seen.update(request.headers)
        body = request.rfile.read(int(request.headers["Content-Length"]))
        request.reply(202, {"id": "x", "sha256": hashlib.sha256(body).hexdigest()})

    server.answer = answer
    sending, steps = Sending(path, path.stat().st_size), list[int]()
    send(client, sending, steps.append)
    assert sending.document["id"] == "x"
    assert steps[-1] == sending.size
    assert len(steps) == 4  # in pieces, never whole
    assert seen["Content-Disposition"] == "attachment; filename*=UTF-8''a%20%22quoted%22%20Gr%C3%B6%C3%9Fe.csv"
    assert seen["Content-Type"] == "text/csv"
    assert seen["Authorization"] == f"Bearer {SECRET}"


def test_other_bytes_than_were_sent_are_noticed(server: Server, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")

    def answer(request: Handler, _: int) -> None:
        request.rfile.read(1)
        request.reply(202, {"id": "x", "sha256": "0" * 64})

    server.answer = answer
    with pytest.raises(AirlockError, match="other bytes arrived"):
        send(client, Sending(path, 1), lambda _: None)


def test_a_refusal_that_comes_before_the_end_of_the_body_is_read(
    server: Server, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    problem = {"type": "/problems/too-large", "title": "Too large", "detail": "The limit is 5 bytes in one file."}

    def answer(request: Handler, _: int) -> None:
        request.reply(413, problem)
        request.close_connection = True

    server.answer = answer
    with pytest.raises(Refused, match=r"Too large: The limit is 5 bytes in one file \(HTTP 413\)\. Send a smaller"):
        send(client, Sending(path, 64 << 20), lambda _: None)
    assert server.count == 1


def test_a_fault_that_passes_is_tried_again_with_the_same_key(server: Server, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    keys, bodies = list[str](), list[bytes]()

    def answer(request: Handler, count: int) -> None:
        keys.append(request.headers["Idempotency-Key"])
        bodies.append(request.rfile.read(3))
        if count == 1:
            request.reply(503, {"title": "Away"}, Retry_After="0")
        else:
            request.reply(202, {"id": "x"})

    server.answer = answer
    send(client, Sending(path, 3), lambda _: None)
    assert bodies == [b"abc", b"abc"]
    assert len(set(keys)) == 1


def test_events_are_taken_up_where_the_connection_broke(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cli.follow.AGAIN", 0.0)

    def event(seq: int, to: str) -> bytes:
        return f'id: {seq}\nevent: state\ndata: {{"seq":{seq},"to":"{to}","at":""}}\n\n'.encode()

    asked: list[str | None] = []

    def answer(request: Handler, count: int) -> None:
        asked.append(request.headers.get("Last-Event-ID"))
        request.send_response(200)
        if count == 1:
            request.send_header("Content-Length", "100000")
            request.end_headers()
            request.wfile.write(b"retry: 1000\n\n: hello\n\n" + event(0, "quarantined"))
            request.wfile.flush()
            request.connection.close()
            request.close_connection = True
        else:
            body = event(0, "quarantined") + event(1, "available")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

    server.answer = answer
    assert [one["to"] for one in changes(client, "x")] == ["quarantined", "available"]
    assert asked == [None, "0"]


def test_only_whole_state_events_are_read() -> None:
    lines = b'event: state\r\ndata: {"a":1}\r\n\r\nevent: other\ndata: {}\n\n:x\n\nevent: state\ndata: {"a":2}'
    assert list(parse(iter(lines.splitlines(keepends=True)))) == [{"a": 1}]


def test_nobody_there_is_one_sentence_with_what_to_do() -> None:
    with pytest.raises(Unavailable, match=r"Connection refused.*make run"):
        Client("http://127.0.0.1:1", SECRET).get("/v1/documents")


def test_no_key_is_one_sentence_with_what_to_do() -> None:
    with pytest.raises(Misconfigured, match="AIRLOCK_API_KEY"):
        Client("http://127.0.0.1:1")


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    said = sentence(400, {"title": "\x1b[2JBad", "detail": "a\nb\u202e"})
    assert said == "?[2JBad: a?b? (HTTP 400)."
    assert plain("Größe 請款單.pdf") == "Größe 請款單.pdf"


def test_a_setting_that_cannot_be_is_named_and_its_value_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEASE_SECONDS", "-17.5")
    with pytest.raises(Misconfigured, match="AIRLOCK_LEASE_SECONDS") as raised:
        load_settings()
    assert "17.5" not in raised.value.detail


def run(*arguments: str) -> tuple[int, str]:
    """A command in this process: exit code (1 for an error that Airlock names) and what it printed."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit | AirlockError):
        raise result.exception
    said = str(result.exception) if isinstance(result.exception, AirlockError) else ""
    return result.exit_code, result.output + said


def test_keys_are_made_listed_and_ended(tmp_path: Path) -> None:
    code, said = run("keys", "list")
    assert code == 1
    assert "airlock migrate" in said
    assert run("migrate")[0] == 0
    code, said = run("keys", "create", "acme", "--name", "the scanner", "--scope", "documents:read")
    assert code == 0
    secret = next(line for line in said.splitlines() if line.startswith("alk_"))
    code, said = run("keys", "list")
    assert secret not in said
    key_id, *rest = said.split()
    assert "acme" in rest
    assert "documents:read" in rest
    assert run("keys", "revoke", key_id)[0] == 0
    assert "revoked" in run("keys", "list")[1]
    ledger = Ledger(load_settings().ledger_url)
    from pipeline.api_keys import hash_key

    with ledger.reading() as tx:
        assert tx.key_by_secret(hash_key(secret)) is None
    ledger.dispose()
    assert run("keys", "create", "../etc")[0] == 1
    assert run("keys", "create", "acme", "--scope", "root")[0] == 1
    assert run("keys", "revoke", secret)[0] == 1
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_policy_is_checked(tmp_path: Path) -> None:
    code, said = run("policy", "check")
    assert code == 0
    assert "is valid" in said
    bad = tmp_path / "policy.toml"
    bad.write_text("version = 2\n")
    code, said = run("policy", "check", str(bad))
    assert code == 1
    assert "version" in said
    assert "limits" in said


def test_a_receipt_without_a_key_says_where_to_get_one(tmp_path: Path) -> None:
    for name in ("file", "receipt"):
        (tmp_path / name).write_text("x")
    code, said = run("verify-receipt", str(tmp_path / "file"), str(tmp_path / "receipt"))
    assert code == 1
    assert "--key" in said
    code, said = run("verify-receipt", str(tmp_path / "nowhere"), str(tmp_path / "receipt"))
    assert code == 1
    assert "No such file" in said


def test_the_port_of_the_platform_counts_where_ours_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli.serve import settings_of_api

    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("AIRLOCK_PORT", "9001")
    assert settings_of_api().port == 9001
    monkeypatch.delenv("AIRLOCK_PORT")
    assert settings_of_api().port == 9000
    monkeypatch.delenv("AIRLOCK_PORT")  # it was set for the app


def test_retry_wants_documents_or_all() -> None:
    assert run("retry")[0] == 1
    assert run("retry", "x", "--all-failed")[0] == 1


def test_a_container_without_its_parts_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_PORT", "1")
    assert run("alive", "api")[0] == 1
    monkeypatch.setenv("AIRLOCK_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    assert run("alive", "beat")[0] == 1


def test_the_client_starts_without_the_service() -> None:
    code = (
        "import sys\nfrom pipeline.cli import app, client, documents, follow, upload\nimport pipeline.cli.app\n"
        "heavy = {'fastapi', 'sqlalchemy', 'celery', 'boto3', 'uvicorn', 'jwt', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

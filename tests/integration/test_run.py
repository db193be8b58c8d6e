"""The local supervisor's pieces, with real processes: what is started, kept, given up and stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.errors import Misconfigured
from pipeline.local import clamd, redis, signatures
from pipeline.local.children import Part
from pipeline.local.places import SOCKET_PATH_BYTES, is_held, prepare
from pipeline.local.plan import free_port, make_plan
from pipeline.local.supervisor import Stopped, Supervisor
from pipeline.policy import load_policy
from pipeline.settings import Settings
from scanners.clamav import ClamAV
from scanners.clamd_limits import limits_of, problems


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AIRLOCK_"):
            monkeypatch.delenv(name)


@pytest.fixture
def lines() -> list[tuple[str, str]]:
    return []


def python(name: str, code: str, **more: bool) -> Part:
    return Part(name, [sys.executable, "-c", code], dict(os.environ), **more)


def test_what_is_given_is_not_started(tmp_path: Path) -> None:
    places = prepare(tmp_path / "var")
    bare = make_plan(Settings(var_dir=tmp_path / "var", port=0), places)
    assert [part.name for part in bare.servers] == ["redis", "clamd"]
    assert [part.name for part in bare.own] == ["api", "worker", "bulk", "ocr", "beat"]
    assert bare.settings.environment.value == "development"
    given = Settings(
        var_dir=tmp_path / "var", port=0, broker_url="amqp://127.0.0.1//", clamd_url="tcp://127.0.0.1:3310"
    )  # type: ignore[arg-type]
    used = make_plan(given, places)
    assert used.servers == ()
    assert used.freshclam is None
    assert used.settings.broker_url.get_secret_value() == "amqp://127.0.0.1//"
    assert used.settings.clamd_url == "tcp://127.0.0.1:3310"
    assert "AIRLOCK_BROKER_URL" not in used.env
    inline = make_plan(Settings(var_dir=tmp_path / "var", port=0, queue="inline"), places)  # type: ignore[arg-type]
    assert [part.name for part in (*inline.servers, *inline.own)] == ["clamd", "api", "beat"]
    assert bare.settings.port != 0
    places.close()


def test_clamds_limits_go_with_the_policy_that_ships(tmp_path: Path) -> None:
    places = prepare(tmp_path / "var")
    assert problems(limits_of(clamd.write_config(places)), load_policy().limits.bytes) == []
    places.close()


def test_a_deep_folder_still_gets_sockets_that_fit(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    places = prepare(deep / "var")
    for path in (redis.socket_path(places), clamd.socket_path(places)):
        assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    assert stat.S_IMODE(places.sockets.stat().st_mode) == 0o700
    places.close()
    assert not places.sockets.exists()


def test_a_folder_for_sockets_that_others_can_use_is_not_used(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60) / "var"
    places = prepare(deep)
    places.close()
    places.sockets.mkdir(mode=0o777)
    places.sockets.chmod(0o777)
    try:
        with pytest.raises(Misconfigured, match="TMPDIR"):
            prepare(deep)
    finally:
        places.sockets.rmdir()


def test_one_folder_one_run(tmp_path: Path) -> None:
    places = prepare(tmp_path)
    assert is_held(tmp_path)
    with pytest.raises(Misconfigured, match=rf"process {os.getpid()}"):
        prepare(tmp_path, patience=0)
    places.close()
    assert not is_held(tmp_path)
    prepare(tmp_path).close()


def test_the_test_set_makes_way_for_the_public_database(tmp_path: Path) -> None:
    places = prepare(tmp_path)
    database = signatures.folder(places)
    assert signatures.settle(places)
    assert {file.name for file in database.iterdir()} == {"test.ndb", "test.hdb"}
    (database / "daily.cld").touch()
    assert signatures.settle(places)  # half a database is none
    (database / "main.cvd").touch()
    assert not signatures.settle(places)
    assert {file.name for file in database.iterdir()} == {"daily.cld", "main.cvd"}
    (database / "main.cvd").unlink()
    assert signatures.settle(places)
    assert (database / "test.ndb").exists()
    places.close()


def test_both_servers_start_answer_and_stop(tmp_path: Path, lines: list[tuple[str, str]]) -> None:
    places = prepare(tmp_path / 'with blanks, and "quotes"')
    plan = make_plan(Settings(var_dir=places.var, port=0), places)
    signatures.settle(places)
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        for part in plan.servers:
            supervisor.start(part)
        for part in plan.servers:
            assert part.ready is not None
            assert supervisor.wait_for(part.name, part.ready, 30), lines
        for path in (redis.socket_path(places), clamd.socket_path(places)):
            assert not path.stat().st_mode & 0o077
        fitness = ClamAV(plan.settings.clamd_url, allow_test_signatures=True).check()
        assert fitness.fit, fitness
        assert signatures.reload(places)
        servers = [one for one in psutil.Process().children() if str(tmp_path) in " ".join(one.cmdline())]
        assert len(servers) == 2
    assert not any(one.is_running() for one in servers)
    places.close()


def test_output_comes_whole_and_in_order(lines: list[tuple[str, str]]) -> None:
    over: list[int] = []
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        code = "import sys\nfor i in range(3000): print('line', i)\nsys.stdout.write('no newline')\nsys.exit(3)"
        supervisor.start(python("talker", code, once=True), over.append)
        assert supervisor.wait_for("talker", lambda: bool(over), 30)
    assert over == [3]
    assert lines == [("talker", f"line {i}") for i in range(3000)] + [("talker", "no newline")]


def test_what_keeps_falling_is_given_up_with_its_last_words(
    lines: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.local.supervisor.RESTARTS", 2)
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        supervisor.start(python("faller", "import sys; print('no luck'); sys.exit(7)"))
        with pytest.raises(Misconfigured, match=r"faller does not stay up \(exit code 7\). Its last words: no luck"):
            supervisor.run()
    assert any("starts again in" in text for _, text in lines)


def test_a_signal_ends_the_wait_and_grandchildren_go_too(
    lines: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys, time, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr("pipeline.local.supervisor.GRACE", 0.2)
    with Supervisor(lambda *line: lines.append(line)) as supervisor:
        supervisor.start(python("stubborn", code))
        assert supervisor.wait_for("its child", lambda: bool(lines), 30)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            supervisor.wait_for("nothing", lambda: False, 30)
    match = re.search(r"child (\d+)", lines[0][1])
    assert match
    try:
        left = psutil.Process(int(match[1]))
        left.wait(10)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        # Orphans are reaped by whoever is process 1, and in a container that may be nobody.
        assert left.status() == psutil.STATUS_ZOMBIE


def test_the_port_is_looked_at_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Misconfigured, match="AIRLOCK_PORT="):
            free_port("127.0.0.1", taken.getsockname()[1])
    assert free_port("127.0.0.1", 0) > 0

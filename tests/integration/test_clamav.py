"""ClamAV against a real clamd: every way in which it says something other than clean, and every way it says nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import socket
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scanners.base import Finding, Sample, SampleTimeout, ScannerError, ScannerUnavailable, Verdict
from scanners.canary import eicar, encrypted_zip, nested, zipped
from scanners.clamav import ClamAV, limits_of, parse_version, problems
from tests.servers.clamd import ClamdServer, clamd, daily_database, until_reloaded

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClamdServer]:
    with clamd(tmp_path_factory.mktemp("clamd"), daily=(27432, NOW - timedelta(days=1))) as running:
        yield running


@pytest.fixture(params=["unix", "tcp"])
def engine(request: pytest.FixtureRequest, server: ClamdServer) -> ClamAV:
    return ClamAV(getattr(server, request.param), timeout=30)


def sample(tmp_path: Path, content: bytes) -> Sample:
    path = tmp_path / "sample"
    path.write_bytes(content)
    return Sample(path, len(content), hashlib.sha256(content).hexdigest())


def sparse(tmp_path: Path, size: int) -> Sample:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
    return Sample(path, size, "")


def test_clean_with_its_evidence(engine: ClamAV, tmp_path: Path) -> None:
    content = os.urandom(700_000)  # several pieces, the last one short
    result = engine.scan(sample(tmp_path, content))
    assert (result.verdict, result.finding) == (Verdict.CLEAN, None)
    assert result.coverage["bytes"] == len(content)
    assert result.engine is not None
    assert (result.engine.name, result.engine.signatures) == ("clamav", "27432")


def test_the_descriptor_is_passed_only_on_this_machine(server: ClamdServer, tmp_path: Path) -> None:
    item = sample(tmp_path, b"some text")
    assert ClamAV(server.unix).scan(item).coverage["mode"] == "fildes"
    assert ClamAV(server.tcp).scan(item).coverage["mode"] == "instream"


@pytest.mark.asvs("5.4.3")
@pytest.mark.parametrize(
    ("content", "verdict", "finding"),
    [
        pytest.param(eicar(), Verdict.INFECTED, Finding.INFECTED, id="eicar"),
        pytest.param(zipped(eicar()), Verdict.INFECTED, Finding.INFECTED, id="eicar-zipped"),
        pytest.param(nested(eicar(), 20), Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED, id="too-deep"),
        pytest.param(encrypted_zip(), Verdict.INCOMPLETE, Finding.ENCRYPTED, id="encrypted"),
        pytest.param(b"plain text", Verdict.CLEAN, None, id="text"),
    ],
)
def test_verdicts(engine: ClamAV, tmp_path: Path, content: bytes, verdict: Verdict, finding: Finding | None) -> None:
    result = engine.scan(sample(tmp_path, content))
    assert (result.verdict, result.finding) == (verdict, finding)


@pytest.mark.asvs("5.4.3")
def test_all_of_clamavs_own_test_files_are_found(engine: ClamAV) -> None:
    files = sorted(Path("/usr/share/clamav-testfiles").glob("*"))
    if not files:
        pytest.skip("clamav-testfiles is not installed")
    for file in files:
        result = engine.scan(Sample(file, file.stat().st_size, ""))
        # One of them lies deeper than MaxRecursion; the others must be found for what they are.
        deep = file.name == "clam_cache_emax.tgz"
        assert result.verdict is (Verdict.INCOMPLETE if deep else Verdict.INFECTED), file.name


def test_more_than_the_limits_allow_is_never_clean(engine: ClamAV, tmp_path: Path) -> None:
    for size in (33 << 20, 65 << 20):
        result = engine.scan(sparse(tmp_path, size))
        assert (result.verdict, result.finding) == (Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED), size


def test_two_gibibytes_are_not_even_asked_about(engine: ClamAV, tmp_path: Path) -> None:
    result = engine.scan(sparse(tmp_path, 2 << 30))
    assert (result.verdict, result.finding) == (Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED)
    assert result.coverage["bytes"] == 0


def test_too_many_members_are_never_clean(engine: ClamAV, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(1100):
            archive.writestr(f"{number}.txt", f"text {number}")
        archive.writestr("last.txt", eicar())
    assert engine.scan(sample(tmp_path, out.getvalue())).verdict is not Verdict.CLEAN


def test_several_threads_at_once(engine: ClamAV, tmp_path: Path) -> None:
    clean, bad = sample(tmp_path, b"text" * 50_000), tmp_path / "bad"
    bad.write_bytes(eicar())
    infected = Sample(bad, 68, "")
    verdicts: list[tuple[Verdict, Verdict]] = []

    def both() -> None:
        verdicts.extend((engine.scan(clean).verdict, engine.scan(infected).verdict) for _ in range(10))

    threads = [threading.Thread(target=both) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [(Verdict.CLEAN, Verdict.INFECTED)] * 40


def test_fit_with_fresh_signatures(engine: ClamAV) -> None:
    fitness = engine.check()
    assert fitness.problems == ()
    assert fitness.fit


def test_a_reload_is_noticed(tmp_path: Path) -> None:
    with clamd(tmp_path / "c", daily=(100, NOW - timedelta(days=20))) as server:
        engine = ClamAV(server.unix)
        stale = engine.check()
        assert not stale.fit
        assert "19 days old" in stale.problems[0] or "20 days old" in stale.problems[0]
        (server.db / "daily.cud").write_bytes(daily_database(101, NOW))
        until_reloaded(server, server.ask("VERSION"))
        fresh = engine.check()
        assert fresh.fit
        assert fresh.engine is not None
        assert fresh.engine.signatures == "101"


def test_unsafe_daemons_are_unfit(tmp_path: Path) -> None:
    with clamd(tmp_path / "c", AlertExceedsMax="no", AlertEncrypted="no") as server:
        fitness = ClamAV(server.unix).check()
        assert not fitness.fit
        assert [problem for problem in fitness.problems if "AlertExceedsMax" in problem]
        assert [problem for problem in fitness.problems if "AlertEncrypted" in problem]
        assert [problem for problem in fitness.problems if "test signatures" in problem]
        allowed = ClamAV(server.unix, allow_test_signatures=True).check()
        assert [warning for warning in allowed.warnings if "test signatures" in warning]
        assert not allowed.fit
        assert len(problems(limits_of(server.conf), 32 << 20)) == 2


def test_a_daemon_without_signatures_of_viruses_is_unfit(tmp_path: Path) -> None:
    with clamd(tmp_path / "c", daily=(100, NOW), MaxRecursion="100") as server:
        assert ClamAV(server.unix).check().fit  # the deepest that clamd can be told to go is not deep enough
        for name in ("test.ndb", "test.hdb"):
            (server.db / name).unlink()
        (server.db / "daily.cud").write_bytes(daily_database(101, NOW))
        until_reloaded(server, server.ask("VERSION"))
        assert "EICAR" in ClamAV(server.unix).check().problems[0]


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        addresses = [f"unix://{tmp_path}/none.sock", f"tcp://127.0.0.1:{unused.getsockname()[1]}"]
    for address in addresses:
        engine = ClamAV(address)
        with pytest.raises(ScannerUnavailable) as caught:
            engine.scan(sample(tmp_path, b"x"))
        assert caught.value.waits
        assert not engine.check().fit


def test_a_daemon_that_hangs_is_to_blame_and_not_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanners.clamav.CHECK_SECONDS", 0.3)
    with clamd(tmp_path / "c") as server:
        engine = ClamAV(server.unix, timeout=0.3)
        item = sample(tmp_path, b"x")
        assert engine.scan(item).verdict is Verdict.CLEAN
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ScannerUnavailable):
                engine.scan(item)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)


class Impostor:
    """Answers VERSION as clamd does, and anything else with what it was given."""

    def __init__(self, tmp_path: Path, reply: bytes | None) -> None:
        self.address = f"unix://{tmp_path}/impostor.sock"
        self._reply = reply
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{tmp_path}/impostor.sock")
        self._listener.listen()
        self._silent: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line, contextlib.suppress(OSError):  # whoever asked may have heard enough and be gone
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        asked = b""
        while len(asked) < 9:  # nVERSION and its end, nFILDES with its byte, or the beginning of nINSTREAM
            asked += line.recv(9 - len(asked))
        if asked.startswith(b"nVERSION"):
            line.sendall(b"ClamAV 1.4.6/27432/Tue Nov 24 09:12:00 2026\n")
        elif self._reply is None:
            self._silent.append(line.dup())
        else:
            line.sendall(self._reply)
            line.shutdown(socket.SHUT_WR)
            while line.recv(4096):
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for line in self._silent:
            line.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"fd[10]: OK",  # cut off: no end of line
        b"fd[10]: ",
        b"OK\n",
        b"stream: OK\n",  # the answer to another question
        b"fd[10]: OK but not really\n",
        b"fd[10]: FOUND\n",
        b"fd[10]: lstat() failed. ERROR\n",
        b"fd[10]: Can't create temporary file ERROR\n",
        b"UNKNOWN COMMAND\n",
        b"fd[10]: OK\nfd[10]: OK\n" + b"x" * 10_000,
        b"\xff\xfe\n",
    ],
)
def test_no_odd_reply_is_clean(tmp_path: Path, reply: bytes) -> None:
    impostor = Impostor(tmp_path, reply)
    try:
        with pytest.raises(ScannerError):
            ClamAV(impostor.address, timeout=10).scan(sample(tmp_path, b"x"))
    finally:
        impostor.close()


def test_silence_about_one_sample_is_that_samples_timeout(tmp_path: Path) -> None:
    impostor = Impostor(tmp_path, None)
    try:
        with pytest.raises(SampleTimeout) as caught:
            ClamAV(impostor.address, timeout=0.2).scan(sample(tmp_path, b"x"))
        assert not caught.value.waits
    finally:
        impostor.close()


def test_where_descriptors_are_refused_the_bytes_are_sent(tmp_path: Path) -> None:
    impostor = Impostor(tmp_path, b"No file descriptor received. ERROR\n")
    engine = ClamAV(impostor.address, timeout=10)
    try:
        with pytest.raises(ScannerError, match="No file descriptor"):  # the impostor says so to the stream as well
            engine.scan(sample(tmp_path, b"x"))
        assert not engine._descriptors
    finally:
        impostor.close()


@pytest.mark.parametrize(
    ("reply", "signatures", "dated"),
    [
        ("ClamAV 1.4.6/27432/Tue Nov 24 09:12:00 2026", "27432", True),
        ("ClamAV 1.4.6/27432/Tue Nov  3 09:12:00 2026", "27432", True),
        ("ClamAV 1.4.6/27432/yesterday", "27432", False),
        ("ClamAV 1.4.6/0/Thu Jan  1 00:00:00 1970", "", False),
        ("ClamAV 1.4.6", "", False),
    ],
)
def test_versions(reply: str, signatures: str, dated: bool) -> None:
    engine = parse_version(reply)
    assert (engine.version, engine.signatures, engine.signatures_at is not None) == ("1.4.6", signatures, dated)


def test_what_is_not_clamd_is_not_asked() -> None:
    with pytest.raises(ScannerUnavailable):
        parse_version("SSH-2.0-OpenSSH_9.2")
    for address in ("/run/clamd.sock", "unix://relative/path", "http://host:3310", "tcp://"):
        with pytest.raises(ValueError, match="unix:///"):
            ClamAV(address)


def test_limits_that_let_bytes_pass(tmp_path: Path) -> None:
    conf = tmp_path / "clamd.conf"
    conf.write_text("")
    assert len(problems(limits_of(conf), 256 << 20)) == 5  # clamd's own defaults: two alerts off, three sizes too small
    conf.write_text(
        "# comment\nAlertExceedsMax true\nAlertEncrypted yes\nStreamMaxLength 256M\nMaxFileSize 256M\nMaxScanSize 1G\n"
        "PCREMaxFileSize 256M\nMaxRecursion 20\n"
    )
    assert problems(limits_of(conf), 256 << 20) == []
    with conf.open("a") as file:
        file.write("MaxFileSize 2G\nMaxScanSize 0\nScanPDF no\n")
    found = " ".join(problems(limits_of(conf), 256 << 20))
    assert found.count("CVE-2025-20260") == 2
    assert "`ScanPDF yes`" in found
    conf.write_text("MaxFileSize lots\n")
    with pytest.raises(ValueError, match="line 1"):
        limits_of(conf)

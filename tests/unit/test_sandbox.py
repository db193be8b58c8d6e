"""What a parser cannot do to us: last, grow, spread, stay, look around, or speak for itself."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scanners.base import SampleTimeout, ScannerError, ScannerUnavailable
from scanners.sandbox import Limits, Sandbox, SandboxError, SandboxKilled, SandboxTimeout

HOSTILE = ("tests.unit.sandbox_hostile",)
LIMITS = Limits(seconds=20, memory=256 << 20)


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    sandbox = Sandbox(LIMITS, modules=HOSTILE)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox(shared: Sandbox) -> Iterator[Sandbox]:
    """The next call works and nothing is left, whatever the test did."""
    yield shared
    assert shared.call("echo", {"still": "here"})["args"] == {"still": "here"}
    assert shared._zygote is not None
    left = psutil.Process(shared._zygote.process.pid).children(recursive=True)
    assert left == []


@pytest.fixture
def text() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(b"some text")
        file.flush()
        yield file.fileno()


def test_a_call_has_its_arguments_and_its_files(sandbox: Sandbox, text: int) -> None:
    answer = sandbox.call("echo", {"name": "é"}, fds=[text])
    assert answer["args"] == {"name": "é"}
    assert answer["read"] == ["some text"]
    assert answer["pid"] != sandbox.call("echo")["pid"]


def test_the_environment_holds_no_secret(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_URL_SECRET", "do not tell")
    fresh = Sandbox(LIMITS, modules=HOSTILE)
    answer = fresh.call("surroundings")
    fresh.close()
    assert "do not tell" not in str(answer)
    assert {line.split(":")[0] for line in answer["fds"]} == {"socket"}  # its own talk with us, nothing else


def test_modules_are_told_what_to_have_ready() -> None:
    fresh = Sandbox(LIMITS, modules=HOSTILE, variables={"AIRLOCK_TOLD": "this"})
    answer = fresh.call("surroundings")
    fresh.close()
    assert answer["environment"]["AIRLOCK_TOLD"] == "this"
    assert answer["environment"]["AIRLOCK_READY"] == "this"


def test_it_has_no_rights(sandbox: Sandbox) -> None:
    status = dict(line.split(":\t", 1) for line in sandbox.call("surroundings")["status"].splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    if sandbox.isolation.unprivileged:
        assert status["Uid"].split()[0] != "0"


def test_it_has_no_network(sandbox: Sandbox) -> None:
    if not sandbox.isolation.no_network:
        pytest.skip("this kernel gives no network namespace")
    assert sandbox.call("connect", {"port": 1})["errno"] != 0
    assert "eth" not in sandbox.call("surroundings")["interfaces"]


def test_it_cannot_touch_its_makers(sandbox: Sandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("without root all run as one user")
    assert sandbox.call("kill_everybody", {"pids": [os.getpid(), os.getppid(), 1]}) == {"reached": []}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("hang", SandboxTimeout),
        ("spin", SandboxTimeout),
        ("eat_memory", SandboxKilled),
        ("segfault", SandboxKilled),
        ("kill_itself", SandboxKilled),
        ("exit_quietly", SandboxError),
        ("flood_raw", SandboxError),
        ("bad_answer", SandboxError),
        ("no_such_function", SandboxError),
    ],
)
def test_each_bad_end_has_its_name(sandbox: Sandbox, name: str, error: type[ScannerError]) -> None:
    with pytest.raises(error) as caught:
        sandbox.call(name, timeout=0.5 if name == "hang" else None)
    assert type(caught.value) is error
    assert not caught.value.waits
    assert isinstance(caught.value, SampleTimeout) == (error is SandboxTimeout)


def test_what_a_parser_says_of_itself_is_not_repeated(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError) as caught:
        sandbox.call("throw", {"secret": "a line of the sample"})
    assert "LookupError" in str(caught.value)
    assert "sample" not in str(caught.value)


def test_answers_are_bounded(sandbox: Sandbox) -> None:
    assert len(sandbox.call("flood", {"bytes": 1_000_000})["flood"]) == 1_000_000
    with pytest.raises(SandboxError, match="more than"):
        sandbox.call("flood", {"bytes": 5_000_000})
    large = sandbox.call("flood", {"bytes": 5_000_000}, limits=Limits(reply_bytes=6 << 20))
    assert len(large["flood"]) == 5_000_000


@pytest.mark.parametrize("leave", [False, True])
def test_a_fork_bomb_ends_with_its_call(sandbox: Sandbox, leave: bool) -> None:
    if not sandbox.isolation.own_user:
        pytest.skip("without a user namespace processes are not counted a call")
    assert sandbox.call("fork_bomb", {"leave": leave}) == {"forked": 0}
    assert sandbox.call("fork_bomb", {"leave": leave}, limits=Limits(processes=12)) == {"forked": 11}
    with pytest.raises(SandboxTimeout):
        sandbox.call("fork_bomb", {"leave": leave, "hang": True}, limits=Limits(processes=12, seconds=0.5))


def test_files_are_written_only_where_and_as_far_as_allowed(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(SandboxError):
        sandbox.call("write_file", {"path": "out", "mib": 1}, scratch=tmp_path)
    roomy = Limits(file_bytes=2 << 20)
    assert sandbox.call("write_file", {"path": "out", "mib": 1}, scratch=tmp_path, limits=roomy) == {"cwd": ["out"]}
    with pytest.raises(SandboxError):
        sandbox.call("write_file", {"path": "out", "mib": 5}, scratch=tmp_path, limits=roomy)
    assert (tmp_path / "out").stat().st_size <= 2 << 20


def test_programs_run_inside_when_there_is_room_for_them(sandbox: Sandbox, text: int) -> None:
    os.lseek(text, 0, os.SEEK_SET)
    answer = sandbox.call("run_programs", {"count": 4}, fds=[text], limits=Limits(processes=8))
    assert "".join(answer["outputs"]) == "some text"
    if sandbox.isolation.own_user:
        with pytest.raises(SandboxError):
            sandbox.call("run_programs", {"count": 4}, fds=[text])


def test_calls_run_side_by_side(sandbox: Sandbox) -> None:
    answers: list[object] = []

    def call() -> None:
        for number in range(10):
            answers.append(sandbox.call("echo", {"number": number})["args"]["number"])
            with pytest.raises(SandboxKilled):
                sandbox.call("segfault")

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, answers)) == sorted([str(number) for number in range(10)] * 4)


def test_a_timeout_ends_only_its_own_call(sandbox: Sandbox) -> None:
    failed: list[BaseException] = []

    def hang() -> None:
        with pytest.raises(SandboxTimeout) as caught:
            sandbox.call("hang", timeout=0.3)
        failed.append(caught.value)

    thread = threading.Thread(target=hang)
    thread.start()
    while thread.is_alive():
        assert sandbox.call("echo", {"n": 1})["args"] == {"n": 1}
    assert len(failed) == 1


def test_a_dead_zygote_is_replaced(sandbox: Sandbox) -> None:
    assert sandbox._zygote is not None
    first = sandbox._zygote.process
    first.kill()
    first.wait()
    assert sandbox.call("echo")["args"] == {}


def test_a_fork_starts_its_own_and_leaves_ours_alone(sandbox: Sandbox) -> None:
    assert sandbox._zygote is not None
    ours = sandbox._zygote.process.pid
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            sandbox.call("echo")
            code = 0 if sandbox._zygote.process.pid != ours else 2
            sandbox.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox._zygote.process.pid == ours
    assert psutil.pid_exists(ours)


def test_it_ends_with_the_worker_however_that_ends(tmp_path: Path) -> None:
    report = tmp_path / "pid"
    pid = os.fork()
    if pid == 0:
        try:
            sandbox = Sandbox(LIMITS, modules=HOSTILE)
            threading.Thread(target=lambda: sandbox.call("hang"), daemon=True).start()
            sandbox.call("echo")
            zygote = sandbox._zygote
            while zygote is None or not (hanging := psutil.Process(zygote.process.pid).children()):
                time.sleep(0.01)
            report.write_text(f"{zygote.process.pid} {hanging[0].pid}")
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    pids = [int(each) for each in report.read_text().split()]
    _, alive = psutil.wait_procs([psutil.Process(each) for each in pids if psutil.pid_exists(each)], timeout=20)
    assert alive == []


def test_what_cannot_start_is_waited_for() -> None:
    with pytest.raises(ScannerUnavailable) as caught:
        Sandbox(modules=("no.such.module",)).call("anything")
    assert caught.value.waits

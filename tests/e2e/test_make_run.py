"""What a newcomer sees: one command starts everything, the line that it prints works, Ctrl-C leaves nothing behind."""

from __future__ import annotations

import csv
import json
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pikepdf
import pytest

from tests.e2e.run_here import Run, airlock, environment, started, until
from tests.servers.process import free_port

# In pieces, so that no virus checker takes this file for what it describes.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-" + b"ANTIVIRUS-TEST-" + b"FILE!$H+H*"


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs of this module: each finds what the one before left."""
    return tmp_path_factory.mktemp("run") / "var"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a page and a virus that is none."""
    folder = tmp_path_factory.mktemp("files")
    with (folder / "people.csv").open("w", newline="") as table:
        csv.writer(table).writerows([["name", "age"], ["Ada", "36"], ["Grace", "45"]])
    with pikepdf.new() as pdf:
        font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
        page = pdf.add_blank_page(page_size=(595, 842))
        page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F1=pdf.make_indirect(font)))
        words = "Please pay two hundred euros for the repair of the lock before the end of the month"
        page.Contents = pdf.make_stream(f"BT /F1 12 Tf 72 760 Td ({words}) Tj ET".encode())
        pdf.save(folder / "Rechnung für März.pdf")
    (folder / "virus.txt").write_bytes(EICAR)
    return folder


@pytest.fixture(scope="module")
def first(var: Path, port: int) -> Iterator[Run]:
    """The first run; the test that stops it is the last one that uses it."""
    with started(var, port) as run:
        yield run


@pytest.fixture(scope="module")
def key(first: Run) -> str:
    found = first.key()
    assert found is not None
    return found


def test_it_says_where_it_is_and_what_to_try(first: Run, key: str) -> None:
    assert f"Airlock is ready:  {first.url}" in first.log
    line = re.search(r"\|\s+(AIRLOCK_API_URL=\S+ AIRLOCK_API_KEY=\S+ \S+/airlock upload FILE\.\.\. --wait)", first.log)
    assert line
    assert key in line[1]
    assert "ONLY TEST SIGNATURES" in first.log
    assert first.log.count(key) == 2  # where it is shown, and in the line to paste
    with urllib.request.urlopen(f"{first.url}/readyz", timeout=10) as answer:
        assert json.load(answer)["status"] == "ready"
    # Shown once, stored hashed: nothing under var holds it.
    for path in first.var.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path


def test_good_files_become_available(first: Run, key: str, files: Path, tmp_path: Path) -> None:
    wanted = [files / "people.csv", files / "Rechnung für März.pdf"]
    done = airlock("upload", *map(str, wanted), "--wait", env={**first.env, "AIRLOCK_API_KEY": key})
    assert done.returncode == 0, done.stdout + done.stderr + first.log
    for state in ("quarantined", "clean", "recognized", "approved", "available"):
        assert len(re.findall(rf"\d\d:\d\d:\d\d  {state}$", done.stdout, re.MULTILINE)) == 2, done.stdout
    assert "Rechnung für März.pdf: AVAILABLE" in done.stdout
    lengths = re.findall(r"text +(\d+) characters", done.stdout)
    assert lengths
    assert int(lengths[-1]) >= len("Please pay two hundred euros")
    urls = re.findall(r"download +(http\S+)", done.stdout)
    for path, url in zip(wanted, urls, strict=True):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == path.read_bytes()
            assert answer.headers["Content-Disposition"].startswith("attachment")

    found = re.findall(r"document +([0-9a-f-]{36})", done.stdout)
    listed = airlock("status", env={**first.env, "AIRLOCK_API_KEY": key})
    assert all(one in listed.stdout for one in found)
    ask = urllib.request.Request(
        f"{first.url}/v1/documents/{found[0]}/receipt", headers={"Authorization": f"Bearer {key}"}
    )
    receipt = tmp_path / "people.receipt"
    with urllib.request.urlopen(ask, timeout=10) as answer:
        receipt.write_bytes(answer.read())
    assert airlock("verify-receipt", str(wanted[0]), str(receipt), env=first.env).returncode == 0
    assert airlock("verify-receipt", str(wanted[1]), str(receipt), env=first.env).returncode == 1


def test_a_virus_is_rejected_and_the_exit_code_says_so(first: Run, key: str, files: Path) -> None:
    done = airlock(
        "upload", str(files / "virus.txt"), str(files / "people.csv"), "--wait",
        env={**first.env, "AIRLOCK_API_KEY": key},
    )  # fmt: skip
    assert done.returncode == 1
    assert "virus.txt: REJECTED" in done.stdout
    assert "infected" in done.stdout
    assert "people.csv: AVAILABLE" in done.stdout
    assert done.stdout.count("download ") == 1


def test_the_doctor_finds_everything_well(first: Run) -> None:
    done = airlock("doctor", "--json", env={name: value for name, value in first.env.items() if name != "AIRLOCK_PORT"})
    report = json.loads(done.stdout)
    assert [part["part"] for part in report["parts"] if not part["ok"]] == [], done.stdout
    assert done.returncode == 0


def test_a_part_that_is_killed_comes_back(first: Run) -> None:
    beat = next(one for one in first.family() if one.cmdline()[-1:] == ["beat"])
    beat.kill()
    until("beat is back", lambda: "beat ended (signal 9); it starts again" in first.log)
    until("beat is back", lambda: any(one.cmdline()[-1:] == ["beat"] for one in first.family()))


def test_a_second_run_in_the_same_folder_is_told_so(first: Run) -> None:
    done = airlock("run", env={**first.env, "AIRLOCK_PORT": str(free_port())})
    assert done.returncode == 1
    assert re.fullmatch(r"Airlock already runs in \S+ \(process \d+\): [^\n]+\n", done.stderr)


def test_ctrl_c_stops_everything_and_another_run_finds_it_all(first: Run, key: str, files: Path) -> None:
    env = {**first.env, "AIRLOCK_API_KEY": key}
    before = airlock("status", env=env).stdout
    family = first.family()
    assert len(family) >= 9  # guard, supervisor, redis, clamd, api, three workers, beat
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(30) == 0
    first.gone(family)
    with started(first.var, first.port) as again:
        assert again.key() is None
        assert airlock("status", env=env).stdout == before
        assert airlock("upload", str(files / "people.csv"), "--wait", env=env).returncode == 0


def test_the_loss_of_the_guard_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path / "var", free_port()) as run:
        family = run.family()
        run.process.kill()
        run.gone(family)


def test_the_loss_of_the_supervisor_leaves_nothing_either(tmp_path: Path) -> None:
    with started(tmp_path / "var", free_port()) as run:
        family = run.family()
        run.supervisor().kill()
        assert run.process.wait(30) == 128 + signal.SIGKILL
        run.gone(family)


def one_sentence(done_code: int, text: str) -> None:
    assert done_code == 1
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1, text


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        done = airlock("run", env=environment(tmp_path / "var", AIRLOCK_PORT=str(number)))
    one_sentence(done.returncode, done.stdout + done.stderr)
    assert f"Port {number}" in done.stderr
    assert "AIRLOCK_PORT=" in done.stderr


def test_a_missing_program_is_one_sentence(tmp_path: Path) -> None:
    done = airlock("run", env=environment(tmp_path / "var", AIRLOCK_PORT="0", AIRLOCK_TESSERACT="tesseract-of-nobody"))
    one_sentence(done.returncode, done.stdout + done.stderr)
    assert "make setup" in done.stderr


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = airlock("run", env=environment(tmp_path / "file" / "var", AIRLOCK_PORT="0"))
    one_sentence(done.returncode, done.stdout + done.stderr)
    assert "AIRLOCK_VAR_DIR" in done.stderr


def test_a_setting_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    done = airlock("run", env=environment(tmp_path / "var", AIRLOCK_PORT="eighty"))
    one_sentence(done.returncode, done.stdout + done.stderr)
    assert "AIRLOCK_PORT" in done.stderr
    assert "eighty" not in done.stderr

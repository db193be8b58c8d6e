"""clamd, asked about one file at a time: by its descriptor on the same machine, as a stream otherwise."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO
from urllib.parse import urlsplit

from scanners.base import (
    Engine,
    Finding,
    Fitness,
    Sample,
    SampleTimeout,
    ScannerError,
    ScannerUnavailable,
    ScanResult,
    Verdict,
)
from scanners.canary import canaries
from scanners.clamd_limits import ClamdLimits, limits_of, problems
from scanners.clamd_protocol import CutReply, TcpSession, UnixSession, Unreachable

__all__ = ["ClamAV", "ClamdLimits", "limits_of", "problems"]

TOO_BIG_FOR_CLAMD = 2 << 30  # not scanned at all from here on
VERSION_SECONDS = 5.0  # how long VERSION's answer is good for
CHECK_SECONDS = 10.0
SKEW = timedelta(hours=26)  # VERSION tells the time without its zone, and clocks differ
# clamd could not work, whatever the file: the document waits.
OUT_OF_ORDER = ("temporary", "create new file", "can't write", "database")
# What clamd's heuristics say besides "infected". Longest prefix first.
HEURISTICS = (
    ("Heuristics.Limits.Exceeded", Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED),
    ("Heuristics.Encrypted", Verdict.INCOMPLETE, Finding.ENCRYPTED),
    ("Heuristics.Broken", Verdict.INCOMPLETE, Finding.DAMAGED),
    ("Heuristics.OLE2.ContainsMacros", Verdict.REFUSED, Finding.TYPE_NOT_ALLOWED),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What clamd said of one file: nothing (clean), a signature's name, or which limit kept it from looking."""

    mode: str
    signature: str = ""
    limit: str = ""


class ClamAV:
    """Asks clamd at `address` (`unix:///path` or `tcp://host:port`) for one verdict a sample.

    `timeout` bounds one sample, in seconds. Signatures older than `max_signature_age`, or of unknown age, are unfit
    unless `allow_test_signatures`.
    """

    name = "clamav"

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 120.0,
        max_signature_age: timedelta = timedelta(days=7),
        allow_test_signatures: bool = False,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            self._local = True
        elif parts.scheme == "tcp" and parts.hostname:
            self._local = False
        else:
            raise ValueError("The address of clamd must be unix:///path/to/socket or tcp://host:port.")
        self._path, self._host, self._port = parts.path, parts.hostname, parts.port or 3310
        self._timeout = timeout
        self._max_age = max_signature_age
        self._allow_test_signatures = allow_test_signatures
        self._descriptors = self._local  # until clamd says that it cannot take them
        self._lock = threading.Lock()
        self._engine: tuple[float, Engine] | None = None

    def scan(self, sample: Sample) -> ScanResult:
        """See Scanner.scan. What clamd's own limits keep it from reading is INCOMPLETE, never clean."""
        started = time.monotonic()
        # Asked before the scan: signatures loaded meanwhile make the record older than the truth, never newer.
        engine = self._version()
        if sample.size >= TOO_BIG_FOR_CLAMD:
            answer = Answer("none", limit="2 GiB and more are not looked at")
        else:
            with sample.open() as body:
                answer = self._ask(body)
        verdict, finding, detail = _meaning(answer)
        return ScanResult(
            scanner=self.name,
            verdict=verdict,
            finding=finding,
            detail=detail,
            engine=engine,
            coverage={"bytes": 0 if answer.limit else sample.size, "mode": answer.mode},
            duration_ms=(time.monotonic() - started) * 1000,
        )

    def check(self) -> Fitness:
        """Reachable, fresh, and not fooled by the canaries? See Checkable.check."""
        found: list[str] = []
        warnings: list[str] = []
        engine: Engine | None = None
        try:
            engine = self._version(fresh=True)
            self._judge_age(engine, found, warnings)
            said = {}
            for name, content in canaries().items():
                with tempfile.TemporaryFile() as body:
                    body.write(content)
                    body.seek(0)
                    said[name] = _meaning(self._ask(body, seconds=CHECK_SECONDS))[0]
            if said["eicar"] is not Verdict.INFECTED:
                found.append("clamd does not find the EICAR test file: its signatures are not loaded.")
            if said["nested"] is Verdict.CLEAN:
                found.append("clamd calls files clean that it gave up on: set `AlertExceedsMax yes` in clamd.conf.")
            if said["encrypted"] is Verdict.CLEAN:
                found.append("clamd calls encrypted archives clean: set `AlertEncrypted yes` in clamd.conf.")
        except (ScannerError, OSError) as exc:
            found.append(str(exc) if isinstance(exc, ScannerError) else "The canaries could not be written to disk.")
        return Fitness(self.name, fit=not found, engine=engine, problems=tuple(found), warnings=tuple(warnings))

    def _judge_age(self, engine: Engine, found: list[str], warnings: list[str]) -> None:
        if engine.signatures_at is None:
            kind = warnings if self._allow_test_signatures else found
            kind.append("Only test signatures are loaded: have freshclam fetch the official database.")
            return
        age = datetime.now(UTC) - engine.signatures_at
        if age > self._max_age:
            found.append(
                f"The signatures are {age.days} days old, {self._max_age.days} are allowed: see that freshclam runs."
            )
        elif age < -SKEW:
            found.append("The signatures are dated in the future: see that the clocks are right.")

    def _session(self, seconds: float) -> UnixSession | TcpSession:
        if self._local:
            return UnixSession(self._path, timeout=seconds)
        return TcpSession(self._host, self._port, timeout=seconds)

    def _version(self, *, fresh: bool = False) -> Engine:
        with self._lock:
            if not fresh and self._engine is not None and time.monotonic() < self._engine[0] + VERSION_SECONDS:
                return self._engine[1]
        try:
            engine = parse_version(self._session(CHECK_SECONDS).ask("VERSION"))
        except OSError as exc:
            raise ScannerUnavailable(f"clamd does not answer: {_reason(exc)}.") from exc
        with self._lock:
            self._engine = (time.monotonic(), engine)
        return engine

    def _ask(self, body: BinaryIO, *, seconds: float | None = None) -> Answer:
        """One file, one answer. Raises ScannerUnavailable, SampleTimeout or ScannerError; an odd reply is no answer."""
        session = self._session(seconds or self._timeout)
        try:
            if self._descriptors:
                mode, reply = "fildes", session.pass_descriptor(body.fileno())
                if _refuses_descriptor(reply):  # confined by AppArmor or a container's rules
                    self._descriptors = False
            if not self._descriptors:
                mode = "instream"
                reply = session.stream(body)
        except Unreachable as exc:
            raise ScannerUnavailable(f"clamd cannot be reached: {_reason(exc)}.") from exc
        except TimeoutError as exc:
            self._version(fresh=True)  # raises ScannerUnavailable if it is clamd that hangs, and not this sample
            raise SampleTimeout(f"clamd did not finish within {session.timeout:g} s.") from exc
        except CutReply as exc:
            raise ScannerError(f"clamd hung up without a verdict: {_reason(exc)}.") from exc
        except OSError as exc:
            raise ScannerUnavailable(f"clamd cannot be talked to: {_reason(exc)}.") from exc
        return _read(reply, mode)


def _read(reply: str, mode: str) -> Answer:
    subject = "stream" if mode == "instream" else r"fd\[\d+\]"
    if re.fullmatch(rf"{subject}: OK", reply):
        return Answer(mode)
    if match := re.fullmatch(rf"{subject}: (\S.*) FOUND", reply):
        return Answer(mode, signature=match[1].removesuffix(".UNOFFICIAL"))
    if mode == "instream" and reply == "INSTREAM size limit exceeded. ERROR":
        return Answer(mode, limit="more than clamd's StreamMaxLength")
    if re.fullmatch(rf"{subject}: Time limit reached\.? ERROR", reply):
        return Answer(mode, limit="more than clamd's MaxScanTime")
    reason = re.sub(r"[^\x20-\x7e]", "?", reply)[:100]
    if reply.endswith("ERROR") and any(words in reply.lower() for words in OUT_OF_ORDER):
        raise ScannerUnavailable(f"clamd is out of order: {reason!r}.")
    raise ScannerError(f"clamd gave no verdict: {reason!r}.")


def _refuses_descriptor(reply: str) -> bool:
    return reply.endswith("ERROR") and ("file descriptor" in reply or "Access denied" in reply)


def _meaning(answer: Answer) -> tuple[Verdict, Finding | None, str]:
    if answer.limit:
        return Verdict.INCOMPLETE, Finding.LIMIT_EXCEEDED, answer.limit
    if not answer.signature:
        return Verdict.CLEAN, None, ""
    for prefix, verdict, finding in HEURISTICS:
        if answer.signature.startswith(prefix):
            return verdict, finding, answer.signature
    return Verdict.INFECTED, Finding.INFECTED, answer.signature


def parse_version(reply: str) -> Engine:
    """`ClamAV 1.4.6/27432/Tue Nov 24 09:12:00 2026`; without a daily database only the first part comes.

    The time has no zone; it is taken as UTC. Raises ScannerUnavailable for anything else.
    """
    match = re.fullmatch(r"ClamAV ([\w.+~-]+)(?:/(\d+)/(.+))?", reply)
    if match is None:
        raise ScannerUnavailable("What answers at clamd's address is not clamd.")
    version, number, when = match.groups()
    if not number or int(number) == 0:
        return Engine("clamav", version)
    try:
        built = datetime.strptime(when, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        built = None
    return Engine("clamav", version, number, built)


def _reason(exc: OSError) -> str:
    return str(exc.strerror or exc) or type(exc).__name__

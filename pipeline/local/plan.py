"""What has to run on this machine, and with which settings: whatever was given is used, the rest is started."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.documents import Lane
from pipeline.errors import Misconfigured
from pipeline.local import clamd, redis, signatures
from pipeline.local.children import Part, find_program
from pipeline.local.places import Places
from pipeline.policy import OcrMode, load_policy
from pipeline.settings import QueueKind, Settings, Takes

INSTALL = "run `make setup`"


@dataclass(frozen=True, slots=True)
class Plan:
    """Servers first, then Airlock's own processes, which have `settings` in their environment `env`."""

    settings: Settings
    env: Mapping[str, str] = field(repr=False)
    servers: tuple[Part, ...]
    own: tuple[Part, ...]
    freshclam: Part | None  # None: clamd was given, or there is no freshclam here


def make_plan(given: Settings, places: Places) -> Plan:
    """Decide what to start and write the configuration of it.

    Raises:
        Misconfigured: a program is missing, the policy cannot be used, or the port is taken.
    """
    port = free_port(given.host, given.port)
    env = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "OMP_THREAD_LIMIT": "1",  # Tesseract's own threads make it three times slower
        "AIRLOCK_VAR_DIR": str(places.var),
        "AIRLOCK_HOST": given.host,
        "AIRLOCK_PORT": str(port),
    }
    told = given.model_fields_set
    if "environment" not in told:
        env["AIRLOCK_ENVIRONMENT"] = "development"
    if "log_json" not in told:
        env["AIRLOCK_LOG_JSON"] = "false"
    if given.queue is QueueKind.CELERY and "broker_url" in told:
        from pipeline.queue.brokers import must_be_known

        must_be_known(given.broker_url.get_secret_value())
    if given.event_sources:
        from pipeline.events.open import open_sources
        from pipeline.services import Services

        open_sources(given.event_sources, Services(given))
    servers: list[Part] = []
    freshclam = None
    if given.queue is QueueKind.CELERY and "broker_url" not in told:
        program = _need("redis-server", "Redis", "redis-server", "name a broker in AIRLOCK_BROKER_URL")
        servers.append(
            Part(
                "redis",
                [program, str(redis.write_config(places))],
                env,
                ready=lambda: redis.answers(places),
                quiet=True,
            )
        )
        env["AIRLOCK_BROKER_URL"] = redis.url(places)
    if "clamd_url" not in told:
        program = _need("clamd", "ClamAV's daemon", "clamav-daemon", "name one in AIRLOCK_CLAMD_URL")
        config = clamd.write_config(places)
        servers.append(
            Part("clamd", [program, "-c", str(config)], env, ready=lambda: clamd.answers(places), quiet=True)
        )
        env |= {"AIRLOCK_CLAMD_URL": clamd.url(places), "AIRLOCK_CLAMD_CONF": str(config)}
        if fetcher := find_program("freshclam"):
            command = [fetcher, f"--config-file={signatures.write_config(places)}", "--foreground"]
            freshclam = Part("freshclam", command, env, quiet=True, once=True)
    recognizes = load_policy(given.policy_file).recognize.mode is not OcrMode.OFF
    if recognizes:
        _need(given.tesseract, "Tesseract", "tesseract-ocr", 'set `mode = "off"` under [recognize] in the policy')
    _need_libmagic()
    names = {"AIRLOCK_ENVIRONMENT", "AIRLOCK_LOG_JSON", "AIRLOCK_VAR_DIR", "AIRLOCK_HOST", "AIRLOCK_PORT"}
    names |= {"AIRLOCK_BROKER_URL", "AIRLOCK_CLAMD_URL", "AIRLOCK_CLAMD_CONF"}
    # Names in the environment may be in any case: ours replace them.
    changed = {name.removeprefix("AIRLOCK_").lower(): env[name] for name in names & env.keys()}
    settings = Settings.model_validate({**given.model_dump(exclude_unset=True), **changed})
    return Plan(settings, env, tuple(servers), _own(given, env, recognizes=recognizes), freshclam)


def _own(given: Settings, env: Mapping[str, str], *, recognizes: bool) -> tuple[Part, ...]:
    def airlock(name: str, *arguments: str) -> Part:
        return Part(name, [sys.executable, "-m", "pipeline.cli", *arguments], env)

    own = [airlock("api", "serve")]
    if given.queue is QueueKind.CELERY:
        cores = os.cpu_count() or 1

        def worker(name: str, lane: Lane, takes: Takes, many: int) -> Part:
            return airlock(name, "worker", "--queues", lane.value, "--takes", takes.value, "--concurrency", str(many))

        # Workers each: reading a long document must not hold up the scan of a short one, nor somebody's thousands the
        # single one of somebody else. So those that take the thousands leave a core free, where there are several.
        if Lane.INSPECT in given.lanes:
            own += [
                worker("worker", Lane.INSPECT, Takes.SINGLES, max(2, cores)),
                worker("bulk", Lane.INSPECT, Takes.BULK, max(1, cores - 1)),
            ]
        if Lane.OCR in given.lanes and recognizes:
            own.append(worker("ocr", Lane.OCR, Takes.ALL, max(1, cores // 2)))
    if given.event_sources:
        own.append(airlock("events", "events"))
    return (*own, airlock("beat", "beat"))


def free_port(host: str, port: int) -> int:
    """The port, or one that is free where 0 was asked for. Raises Misconfigured where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            return int(sock.getsockname()[1])
    except PermissionError as exc:
        raise Misconfigured(f"Port {port} needs root: choose one above 1023 with AIRLOCK_PORT.") from exc
    except OSError as exc:
        raise Misconfigured(
            f"Port {port} on {host} cannot be used ({exc.strerror}): stop what listens there, "
            f"or choose another one with AIRLOCK_PORT={port % 60000 + 1 if port else 8000}."
        ) from exc


def _need(program: str, what: str, package: str, instead: str) -> str:
    found = find_program(program)
    if found is None:
        raise Misconfigured(f"{what} is not installed: {INSTALL} (or install the package {package}), or {instead}.")
    return found


def _need_libmagic() -> None:
    try:
        ctypes.CDLL("libmagic.so.1")
    except OSError as exc:
        raise Misconfigured(f"libmagic is not installed: {INSTALL} (or install the package libmagic1).") from exc

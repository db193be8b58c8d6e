"""What `airlock doctor` asks. A check that cannot be made is a problem, never an ok."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import AirlockError
from pipeline.services import Services
from pipeline.settings import Environment, QueueKind, Settings
from scanners.base import Fitness

MIN_FREE = 1 << 30  # bytes below which a disk is too full to take uploads


@dataclass(frozen=True, slots=True)
class Finding:
    """One part's condition."""

    part: str
    summary: str
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing has to be done."""
        return not self.problems

    def shown(self) -> dict[str, object]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


def examine(settings: Settings, *, deep: bool = False) -> list[Finding]:
    """Ask every part, one after another; `deep`: the invariants too. Never raises."""
    try:
        services = Services(settings)
    except AirlockError as exc:
        return [Finding("settings", "cannot be used", (exc.detail,))]
    checks: dict[str, Callable[[Services], Finding]] = {
        "settings": _settings,
        "policy": _policy,
        "database": _database,
        "quarantine": lambda s: _bucket("quarantine", s),
        "serving": lambda s: _bucket("serving", s),
        "queue": _queue,
        "events": _events,
        "clamav": _clamav,
        "clamd.conf": _limits,
        "tesseract": _tesseract,
        "receipts": _receipts,
        "disk": _disk,
        **({"invariants": _invariants} if deep else {}),
    }
    try:
        return [_asked(name, check, services) for name, check in checks.items()]
    finally:
        services.close()


def _asked(name: str, check: Callable[[Services], Finding], services: Services) -> Finding:
    try:
        return check(services)
    except AirlockError as exc:
        return Finding(name, "not well", (exc.detail,))
    except Exception as exc:  # noqa: BLE001 - whatever it is, the part is not known to be well
        # The words of a foreign error may hold an address with its password.
        return Finding(name, "cannot be asked", (f"Asking it ended in {type(exc).__name__}.",))


def _invariants(services: Services) -> Finding:
    from pipeline.invariants import ALWAYS, violations

    found = tuple(violations(services))
    return Finding("invariants", f"{len(ALWAYS)} of them, {len(found)} violations", found)


def _settings(services: Services) -> Finding:
    settings = services.settings
    warnings: tuple[str, ...] = ()
    if settings.environment is not Environment.PRODUCTION:
        warnings = ("AIRLOCK_ENVIRONMENT is development: test signatures are enough to promote.",)
    return Finding("settings", f"{settings.environment.value}, {settings.base_url}", warnings=warnings)


def _policy(services: Services) -> Finding:
    policy = services.policy
    path = services.settings.policy_file or "the one that ships with Airlock"
    return Finding("policy", f"{path}, digest {policy.digest[:16]}")


def _database(services: Services) -> Finding:
    kind = urlsplit(services.settings.ledger_url).scheme.partition("+")[0]
    services.ledger.ping()
    current, newest = services.ledger.revision()
    if current != newest:
        return Finding("database", f"{kind}, revision {current}, not {newest}", ("Run `airlock migrate`.",))
    return Finding("database", f"{kind}, revision {current}")


def _bucket(name: str, services: Services) -> Finding:
    store = services.quarantine if name == "quarantine" else services.serving
    url = services.settings.quarantine if name == "quarantine" else services.settings.serving
    store.ping()
    return Finding(name, f"{urlsplit(url).scheme}, {store.bucket}")


def _queue(services: Services) -> Finding:
    settings = services.settings
    if settings.queue is QueueKind.INLINE:
        return Finding("queue", "inline")
    services.queue.ping()
    if settings.queue is not QueueKind.CELERY:
        return Finding("queue", settings.queue.value)
    return Finding("queue", f"Celery, {urlsplit(settings.broker_url.get_secret_value()).scheme}")


def _events(services: Services) -> Finding:
    from pipeline.events.open import open_sources

    names = []
    if services.settings.event_sources:
        names = [source.name for source in open_sources(services.settings.event_sources, services)]
    with services.ledger.reading() as tx:
        letters = sum(tx.dead_letter_counts().values())
    dead = (f"{letters} messages could not be taken: airlock dead-letters list",) if letters else ()
    return Finding("events", f"from {', '.join(names)}" if names else "no queue is read", warnings=dead)


def _clamav(services: Services) -> Finding:
    if not services.settings.scans:
        return Finding("clamav", "not here: other processes scan")
    return _fitness("clamav", services.clamav.check())


def _tesseract(services: Services) -> Finding:
    if services.recognizer is None:
        return Finding("tesseract", "not needed: the policy turns recognition off")
    return _fitness("tesseract", services.recognizer.check())


def _fitness(part: str, fitness: Fitness) -> Finding:
    engine = fitness.engine
    said = [f"{engine.name} {engine.version}".strip()] if engine else ["not reachable"]
    if engine and engine.signatures:
        said.append(f"signatures {engine.signatures}")
    if engine and engine.signatures_at:
        age = datetime.now(UTC) - engine.signatures_at
        said.append(f"{age.total_seconds() / 86400:.1f} days old")
    problems = fitness.problems if fitness.fit else fitness.problems or ("It is not fit, and does not say why.",)
    return Finding(part, ", ".join(said), problems, fitness.warnings)


def _limits(services: Services) -> Finding:
    from scanners.clamd_limits import limits_of, problems

    conf = services.settings.clamd_conf
    if conf is None:
        return Finding(
            "clamd.conf", "not known", warnings=("Set AIRLOCK_CLAMD_CONF to have clamd's limits compared with ours.",)
        )
    try:
        found = problems(limits_of(conf), services.policy.limits.bytes)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        return Finding("clamd.conf", str(conf), (f"It cannot be read: {why}.",))
    return Finding("clamd.conf", str(conf), tuple(found))


def _receipts(services: Services) -> Finding:
    return Finding("receipts", f"signed with key {services.receipts.key_id}")


def _disk(services: Services) -> Finding:
    settings = services.settings
    places = {settings.var_dir.absolute(), settings.spool_dir}
    for url in (settings.quarantine, settings.serving):
        if urlsplit(url).scheme == "file":
            places.add(Path(unquote(urlsplit(url).path)))
    free = {place: shutil.disk_usage(_existing(place)).free for place in places}
    tight, space = min(free.items(), key=lambda item: item[1])
    needed = max(MIN_FREE, services.policy.limits.bytes + services.policy.limits.unpacked_bytes)
    problems: tuple[str, ...] = ()
    if space < needed:
        problems = (f"{tight} has {space >> 20} MiB left, one upload may need {needed >> 20}: make room.",)
    return Finding("disk", f"{space / (1 << 30):.1f} GiB free", problems)


def _existing(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place

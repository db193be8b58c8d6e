"""The numbers of `/metrics`, for Prometheus. A registry of its own for each app: nothing is global.

Loaded when the app starts, not with it (see web.py): the client library brings an HTTP server of its own along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from pipeline.errors import AirlockError
from pipeline.services import Services
from pipeline.states import State
from scanners.base import Fitness

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """What this process counts itself."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("airlock_http_requests_total", "Requests.", labels, registry=self.registry)
        self._seconds = Histogram(
            "airlock_http_request_seconds",
            "From the headers to the last byte of the answer.",
            labels[:2],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("airlock_http_requests_in_flight", "Requests being served.", registry=self.registry)
        self._received = Counter(
            "airlock_upload_received_bytes_total", "Bytes of upload bodies read, kept or not.", registry=self.registry
        )
        self._bytes = Counter("airlock_upload_bytes_total", "Bytes of accepted documents.", registry=self.registry)
        self._documents = Counter("airlock_upload_documents_total", "Documents accepted.", registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is over. `route` is the template: labels that clients choose would grow without bound."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def received(self, size: int) -> None:
        """Bytes of an upload came in."""
        self._received.inc(size)

    def accepted(self, documents: int, size: int) -> None:
        """Documents were taken."""
        self._documents.inc(documents)
        self._bytes.inc(size)


class LedgerNumbers(Collector):
    """What the ledger knows, read once for one scrape."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Without an answer from the ledger its numbers are missing, and airlock_ledger_up is 0."""
        up = GaugeMetricFamily("airlock_ledger_up", "Whether the ledger answered this scrape.")
        try:
            with self._services.ledger.reading() as tx:
                counts, oldest, waiting, held = tx.counts(), tx.oldest_waiting(), tx.waiting_for(), tx.held()
                dead = tx.dead_letter_counts()
        except AirlockError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        every: Mapping[str, float] = {state.value: counts.get(state, 0) for state in State}
        yield _family("airlock_documents", "Documents by state.", "state", every)
        yield _family(
            "airlock_oldest_waiting_seconds",
            "Age of the document that has waited longest in each working state.",
            "state",
            {state.value: age for state, age in oldest.items()},
        )
        yield _family("airlock_documents_waiting", "Documents that wait for a part of the service.", "for", waiting)
        behind = GaugeMetricFamily("airlock_documents_held", "Documents that wait for others of their tenant's.")
        behind.add_metric([], held)
        yield behind
        yield _family("airlock_dead_letters", "Messages about objects that could not be taken.", "source", dead)


class ScannerNumbers(Collector):
    """Whether the scanner is fit, as of the last check."""

    def __init__(self, fitness: Fitness, age_seconds: float | None) -> None:
        self._fitness = fitness
        self._age = age_seconds

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        name = self._fitness.scanner
        yield _family("airlock_scanner_fit", "Whether it may judge.", "scanner", {name: float(self._fitness.fit)})
        yield _family(
            "airlock_scanner_warnings",
            "Warnings, such as that only test signatures are loaded.",
            "scanner",
            {name: len(self._fitness.warnings)},
        )
        if self._age is not None:
            yield _family("airlock_signature_age_seconds", "Age of its signatures.", "scanner", {name: self._age})


def _family(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def scraped(services: Services, own: Metrics, fitness: Fitness | None, age_seconds: float | None) -> bytes:
    """What a scrape reads, in `CONTENT_TYPE`. Asks the ledger: blocks."""
    scanner, ledger = CollectorRegistry(), CollectorRegistry()
    if fitness is not None:
        scanner.register(ScannerNumbers(fitness, age_seconds))
    ledger.register(LedgerNumbers(services))
    return b"".join(generate_latest(registry) for registry in (own.registry, scanner, ledger))

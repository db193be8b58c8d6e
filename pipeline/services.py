"""The composition root: builds every part from Settings, once a process, on first use.

Only this file names concrete classes. Each part is made when it is first asked for, so a process loads what it uses
and nothing more (an API on local buckets imports neither boto3 nor google-cloud).
"""

from __future__ import annotations

import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import Misconfigured
from pipeline.keyfiles import made_once
from pipeline.settings import Environment, QueueKind, Settings
from pipeline.turns import OFF, Window

if TYPE_CHECKING:
    from pipeline.drain import Drain
    from pipeline.gate import Gate
    from pipeline.ledger.session import Ledger
    from pipeline.outbox import Announcer
    from pipeline.policy import Policy
    from pipeline.queue import Queue
    from pipeline.receipts import ReceiptSigner
    from pipeline.storage.base import ObjectStore
    from pipeline.storage.local_signing import LocalSigner
    from scanners.base import Scanner
    from scanners.clamav import ClamAV
    from scanners.ocr import Recognizer
    from scanners.sandbox import Sandbox


def _place(url: str) -> tuple[str, str, str]:
    """What tells two buckets apart: options such as a region do not."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return "file", "", str(Path(unquote(parts.path)).resolve())
    return parts.scheme, parts.netloc, parse_qs(parts.query).get("endpoint", [""])[-1]


class Services:
    """Everything a step, a route or a command works with."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"  # who holds our leases
        if _place(settings.quarantine) == _place(settings.serving):
            raise Misconfigured(
                "AIRLOCK_QUARANTINE_URL and AIRLOCK_SERVING_URL name the same bucket: what nobody has looked at yet "
                "would lie where everybody reads. Name two."
            )
        if urlsplit(settings.quarantine).scheme != urlsplit(settings.serving).scheme:
            raise Misconfigured(
                "AIRLOCK_QUARANTINE_URL and AIRLOCK_SERVING_URL must name buckets of the same kind: "
                "promotion is the store's own copy."
            )

    @cached_property
    def policy(self) -> Policy:
        """What is accepted, read and kept."""
        from pipeline.policy import load_policy

        return load_policy(self.settings.policy_file)

    @cached_property
    def ledger(self) -> Ledger:
        """The truth."""
        from pipeline.ledger.session import Ledger

        if self.settings.database_url is None:
            self.settings.var_dir.mkdir(parents=True, exist_ok=True)
        return Ledger(self.settings.ledger_url, window=self._window())

    @cached_property
    def signer(self) -> LocalSigner:
        """Signs and checks the local store's URLs."""
        from pipeline.storage.local_signing import LocalSigner

        return LocalSigner(self._url_secret(), self.settings.base_url)

    @cached_property
    def quarantine(self) -> ObjectStore:
        """Where everything lands."""
        from pipeline.storage.open import open_store

        return open_store(self.settings.quarantine, signer=self.signer)

    @cached_property
    def serving(self) -> ObjectStore:
        """Where only what passed is."""
        from pipeline.storage.open import open_store

        return open_store(self.settings.serving, signer=self.signer, sources=(self.quarantine,))

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where untrusted bytes are looked at."""
        from scanners.sandbox import Sandbox

        return Sandbox()

    @cached_property
    def reading_sandbox(self) -> Sandbox:
        """Where documents are read: another, as its zygote is large and its calls are long."""
        from scanners.ocr import reading_sandbox

        return reading_sandbox(self.policy.recognize.languages)

    @cached_property
    def clamav(self) -> ClamAV:
        """The antivirus engine."""
        from scanners.clamav import ClamAV

        if not self.settings.scans:
            raise Misconfigured("AIRLOCK_CLAMD_URL is none: this process scans nothing, and cannot take documents on.")
        return ClamAV(
            self.settings.clamd_url,
            timeout=self.settings.clamd_timeout,
            max_signature_age=timedelta(
                days=min(self.settings.max_signature_age_days, self.policy.scan.max_signature_age_days)
            ),
            allow_test_signatures=self.settings.environment is Environment.DEVELOPMENT,
        )

    @cached_property
    def scanners(self) -> tuple[Scanner, ...]:
        """The scanners that the policy requires, each once."""
        from pipeline.scanning import build_scanners

        return build_scanners(self.settings, self.policy, self.sandbox, self.clamav)

    @cached_property
    def gate(self) -> Gate:
        """Whether the scanners are fit to judge, asked at most every few seconds."""
        from pipeline.gate import Gate

        return Gate(self.scanners)

    @cached_property
    def recognizer(self) -> Recognizer | None:
        """Reads documents; None where the policy turns it off."""
        from pipeline.policy import OcrMode

        rules = self.policy.recognize
        if rules.mode is OcrMode.OFF:
            return None
        from scanners.ocr import OcrOptions, Recognizer

        return Recognizer(
            OcrOptions(
                languages=rules.languages,
                max_pages=rules.max_pages,
                page_seconds=rules.page_seconds,
                document_seconds=rules.document_seconds,
                searchable_pdf=rules.searchable_pdf,
            ),
            self.reading_sandbox,
            tesseract=self.settings.tesseract,
        )

    @cached_property
    def receipts(self) -> ReceiptSigner:
        """Signs clearance receipts."""
        from pipeline.receipts import ReceiptSigner, key_in, load_or_make_key

        if self.settings.receipt_key is not None:
            # Where variables are written on one line, the line breaks of the PEM come as two characters.
            pem = self.settings.receipt_key.get_secret_value().replace("\\n", "\n")
            return ReceiptSigner(key_in(pem.encode(), "AIRLOCK_RECEIPT_KEY"))
        return ReceiptSigner(load_or_make_key(self.settings.receipt_key_file or self._keys_dir() / "receipt.pem"))

    @cached_property
    def queue(self) -> Queue:
        """Who is told that a document waits."""
        if self.settings.queue is QueueKind.INLINE:
            from pipeline.queue.inline import InlineQueue

            return InlineQueue(self)
        if self.settings.queue is QueueKind.PUBSUB:
            from pipeline.queue.pubsub import PubSubQueue

            return PubSubQueue(self.settings.queue_url)
        if self.settings.queue is QueueKind.SQS:
            from pipeline.queue.sqs import SqsQueue

            return SqsQueue(self.settings.queue_url)
        from pipeline.queue.celery import CeleryQueue

        return CeleryQueue(self.settings)

    @cached_property
    def drain(self) -> Drain:
        """What this process has in hand, and whether it is about to end."""
        from pipeline.drain import Drain

        return Drain(self)

    @cached_property
    def announcer(self) -> Announcer:
        """Rings the queue after a commit and ticks off the outbox behind it."""
        from pipeline.outbox import Announcer

        return Announcer(self)

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """Threads in which scanners look at one sample side by side."""
        return ThreadPoolExecutor(max_workers=4, thread_name_prefix="scan")

    def close(self) -> None:
        """Give back what was opened. Idempotent."""
        made = self.__dict__
        if "announcer" in made:
            self.announcer.close()
        if "pool" in made:
            self.pool.shutdown(wait=False, cancel_futures=True)
        if "sandbox" in made:
            self.sandbox.close()
        if "reading_sandbox" in made:
            self.reading_sandbox.close()
        if "ledger" in made:
            self.ledger.dispose()

    def _window(self) -> Window:
        if self.settings.queue is QueueKind.INLINE:
            return OFF  # there is no broker to keep others from
        return Window(self.settings.dispatch_singles, self.settings.dispatch_window)

    def _keys_dir(self) -> Path:
        return self.settings.var_dir.absolute() / "keys"

    def _url_secret(self) -> bytes:
        if self.settings.url_secret is not None:
            return self.settings.url_secret.get_secret_value().encode()
        return made_once(self._keys_dir() / "url-secret", lambda: secrets.token_bytes(32))

"""Everything that can be configured, from the environment (`AIRLOCK_...`). Read once and passed on, never a global.

A secret is a SecretStr: it cannot reach a log by being printed.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipeline.documents import Lane
from pipeline.platforms import platform


class Environment(StrEnum):
    """`production` refuses to promote with anything less than current, official signatures."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


class QueueKind(StrEnum):
    """Who runs the flow: Celery workers, the process that took the upload, or whomever a cloud's queue calls."""

    CELERY = "celery"
    INLINE = "inline"
    PUBSUB = "pubsub"  # a push of Pub/Sub to /v1/tasks/run
    SQS = "sqs"  # a Lambda function


class Takes(StrEnum):
    """Which documents a worker takes: of tenants that have few on their way, of those that have many, or both."""

    ALL = "all"
    SINGLES = "singles"
    BULK = "bulk"


class Settings(BaseSettings):
    """All settings. Every default suits one machine; nothing has to be set to try Airlock."""

    model_config = SettingsConfigDict(env_prefix="AIRLOCK_", extra="ignore", frozen=True)

    environment: Environment = Environment.PRODUCTION
    var_dir: Path = Path("var")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    public_url: str | None = None  # what clients reach us by; default http://{host}:{port}

    database_url: str | None = None  # default: sqlite in var_dir
    quarantine_url: str | None = None  # file:///dir, s3://bucket?endpoint=..., gs://bucket; default: file in var_dir
    serving_url: str | None = None

    queue: QueueKind = QueueKind.CELERY
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    queue_url: str | None = None  # pubsub://project/topic, or the URL of an SQS queue
    lanes: Annotated[frozenset[Lane], NoDecode] = frozenset(Lane)  # which queues this worker serves
    takes: Takes = Takes.ALL
    dispatch_singles: int = Field(4, ge=1)  # documents of a tenant on their way before the next counts as one of many
    dispatch_window: int = Field(64, ge=0)  # documents of a tenant in the broker at once, of many; 0: all of them
    batch_items: int = Field(100_000, ge=1)  # in one batch
    batch_window: int = Field(256, ge=1)  # documents of one batch on their way at once
    batch_seconds: float = Field(1.0, ge=0.05)  # how often beat looks after batches
    batches_open: int = Field(100, ge=1)  # batches of one tenant that have not ended

    clamd_url: str = "unix:///run/clamav/clamd.ctl"  # or tcp://host:3310; none: this process scans nothing
    clamd_conf: Path | None = None  # where clamd's configuration can be read, its limits are compared with ours
    clamd_max_file_bytes: int = Field(100 << 20, gt=0)  # clamd's MaxFileSize, where its configuration cannot be read
    clamd_timeout: float = Field(120.0, gt=0)  # seconds for one sample
    max_signature_age_days: float = Field(7.0, gt=0)
    tesseract: str = "tesseract"

    policy_file: Path | None = None  # default: the policy that ships with Airlock
    url_secret: SecretStr | None = None  # signs the local store's URLs; default: made once in var_dir
    receipt_key: SecretStr | None = None  # an Ed25519 private key (PEM), where there are no files
    receipt_key_file: Path | None = None  # Ed25519 private key (PEM); default: made once in var_dir
    download_seconds: int = Field(900, ge=1, le=7200)  # how long a signed URL lives

    event_sources: Annotated[frozenset[str], NoDecode] = frozenset()  # queues that say what landed: events/open.py
    event_secret: SecretStr | None = Field(None, min_length=16)  # what a bucket's webhook sends as its bearer token
    push_audiences: Annotated[frozenset[str], NoDecode] = frozenset()  # whom pushed OIDC tokens are meant for: us
    push_accounts: Annotated[frozenset[str], NoDecode] = frozenset()  # the service accounts that may push
    push_keys_url: str = "https://www.googleapis.com/oauth2/v3/certs"  # the keys that such tokens are signed by

    cors_origins: Annotated[frozenset[str], NoDecode] = frozenset()  # web pages that may use the API; "*": all
    body_limit_bytes: int | None = Field(None, ge=1)  # the largest request that arrives; default: the platform's
    stream_seconds: float | None = Field(None, gt=0)  # how long an event stream lasts; default: the platform's
    upload_seconds: float = Field(86400.0, gt=0)  # how long an upload may stay open without a byte
    chunk_bytes: int = Field(100 << 20, ge=1)  # in one chunk of a session
    presign_seconds: int = Field(3600, ge=1, le=7200)  # how long a URL lives that a client sends bytes to
    drop_after_seconds: float = Field(
        60.0, ge=0
    )  # an object in a drop folder that no event told of is taken once this old

    lease_seconds: float = Field(30.0, gt=0)
    max_tries: int = Field(5, ge=1)
    retry_base_seconds: float = Field(2.0, gt=0)
    retry_cap_seconds: float = Field(300.0, gt=0)
    sweep_seconds: float = Field(15.0, gt=0)
    relay_seconds: float = Field(5.0, gt=0)
    reconcile_seconds: float = Field(300.0, gt=0)  # how often the buckets are listed and compared with the ledger
    requeue_after_seconds: float = Field(120.0, gt=0)  # a document that nobody touched for so long is rung again
    orphan_after_seconds: float = Field(3600.0, gt=0)  # an object that no row knows is looked after once this old
    task_time_limit_seconds: int = Field(3600, gt=0)
    drain_seconds: float = Field(8.0, ge=0)  # how long a step may go on after SIGTERM before its lease is given back

    log_level: str = "INFO"
    log_json: bool = True

    @field_validator("lanes", mode="before")
    @classmethod
    def _split_lanes(cls, value: object) -> object:
        return frozenset(value.split(",")) if isinstance(value, str) else value

    @field_validator("cors_origins", "event_sources", "push_audiences", "push_accounts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return frozenset(each.strip() for each in value.split(",") if each.strip())

    @cached_property
    def scans(self) -> bool:
        """Whether this process may look into files at all; one that only takes and serves them need not."""
        return self.clamd_url != "none"

    @cached_property
    def body_limit(self) -> int | None:
        """Bytes in the body of one request that arrive here; None: as many as the policy allows."""
        where = platform()
        return self.body_limit_bytes or (where.body_bytes if where else None)

    @cached_property
    def stream_limit(self) -> float | None:
        """Seconds after which an event stream ends, for its client to come again; None: with the document."""
        where = platform()
        return self.stream_seconds or (where.stream_seconds if where else None)

    @cached_property
    def base_url(self) -> str:
        """The address that clients use, without a slash at its end."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @cached_property
    def ledger_url(self) -> str:
        """The database's URL; SQLite under `var_dir` unless told otherwise."""
        return self.database_url or f"sqlite:///{self.var_dir.absolute() / 'airlock.db'}"

    @cached_property
    def quarantine(self) -> str:
        """The quarantine bucket's URL."""
        return self.quarantine_url or (self.var_dir.absolute() / "buckets" / "quarantine").as_uri()

    @cached_property
    def serving(self) -> str:
        """The serving bucket's URL."""
        return self.serving_url or (self.var_dir.absolute() / "buckets" / "serving").as_uri()

    @cached_property
    def spool_dir(self) -> Path:
        """Where samples lie while they are worked on."""
        return self.var_dir.absolute() / "spool"

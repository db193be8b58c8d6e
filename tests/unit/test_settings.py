"""Settings that cannot be right are refused before anything starts, in a sentence that names the variable."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.errors import Misconfigured, StoreUnavailable
from pipeline.queue.celery import make_app
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.storage.base import Provisionable
from pipeline.storage.open import open_store

DOCUMENT = Path("docs/settings.md")


def shown(default: Any) -> str:
    """A default as the table writes it."""
    match default:
        case None:
            return ""
        case SecretStr():
            return default.get_secret_value()
        case bool():
            return str(default).lower()
        case frozenset():
            return ",".join(sorted(default))
        case float():
            return f"{default:g}"
    return str(default)


def test_the_table_of_settings_is_the_settings() -> None:
    rows = re.findall(r"^\| `AIRLOCK_(\w+)` \| (?:`([^`]*)`)?[^|]*\| \S.*\|$", DOCUMENT.read_text(), re.MULTILINE)
    fields = Settings.model_fields
    assert dict(rows) == {name.upper(): shown(field.default) for name, field in fields.items()}
    assert len(rows) == len(fields)


@pytest.mark.parametrize(
    ("quarantine", "serving"),
    [
        ("file:///srv/files", "file:///srv/files"),
        ("file:///srv/files", "file:///srv/other/../files/"),
        ("s3://files?region=eu-west-1", "s3://files"),
        ("gs://files", "gs://files"),
        ("memory://files", "memory://files"),
    ],
)
def test_one_bucket_cannot_be_both(quarantine: str, serving: str) -> None:
    with pytest.raises(Misconfigured, match="AIRLOCK_SERVING_URL name the same bucket"):
        Services(Settings(quarantine_url=quarantine, serving_url=serving))


def test_buckets_of_one_name_on_two_servers_are_two() -> None:
    Services(Settings(quarantine_url="s3://files?endpoint=http://a:1", serving_url="s3://files?endpoint=http://b:1"))


@pytest.mark.parametrize("url", ["foo://secret@host", "", "http://secret@host", "/secret"])
def test_a_broker_of_no_known_kind_is_named_without_its_address(url: str) -> None:
    with pytest.raises(Misconfigured, match="AIRLOCK_BROKER_URL") as raised:
        make_app(Settings(broker_url=SecretStr(url)))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h:1/0", "redis+socket:///s", "amqp://h//", "amqps://h//"])
def test_brokers_that_are_known(url: str) -> None:
    make_app(Settings(broker_url=SecretStr(url)))


def test_an_s3_server_that_is_not_there_is_away_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen: nobody else gets the port, and it refuses
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = open_store(f"s3://files?endpoint={address}&region=us-east-1&path_style=1")
        assert isinstance(store, Provisionable)
        for ask in (store.ensure_bucket, store.ping, lambda: store.head("standard/a/b/original")):
            with pytest.raises(StoreUnavailable):
                ask()

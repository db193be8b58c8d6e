"""What becomes of a message: landed once however often it comes, ignored, dead-lettered, or left to come again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pipeline.api_keys import make_key
from pipeline.documents import DeadLetter, Filters
from pipeline.errors import BadRequest, StoreError, StoreUnavailable, Unavailable
from pipeline.events import s3
from pipeline.events.intake import Disposition, retake, take
from pipeline.ledger.session import Ledger
from pipeline.services import Services
from pipeline.settings import Settings
from pipeline.states import State
from tests.contract.ledger_fixtures import at_once
from tests.messages import gcs_attributes, s3_event, s3_record, s3_test_event, sns
from tests.servers.process import free_port
from tests.world import TENANT, World

BUCKET = "quarantine"
KEY = f"drop/{TENANT}/in/Rechnung März.csv"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    make_key(made.services.ledger, TENANT)
    yield made
    made.services.close()


def put(world: World, key: str = KEY, body: bytes = b"some,text\n") -> None:
    """A file that another program puts into the bucket."""
    path = world.services.settings.var_dir / "buckets" / BUCKET / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def came(world: World, body: bytes, *, attempt: int | None = None) -> Disposition:
    return take(body, {}, s3.read, world.services, source="sqs/landed", attempt=attempt)


def documents(world: World) -> list[UUID]:
    with world.services.ledger.reading() as tx:
        return [one.id for one in tx.documents(Filters(TENANT), limit=100)[0]]


def letters(world: World) -> list[DeadLetter]:
    with world.services.ledger.reading() as tx:
        return tx.dead_letters(100)


class Failing:
    """A store that answers one thing."""

    bucket = BUCKET

    def __init__(self, answer: Exception) -> None:
        self.answer = answer

    def head(self, key: str, version: str | None = None) -> Any:
        raise self.answer


def test_an_object_that_landed_becomes_one_document_however_often_it_is_told(world: World) -> None:
    put(world)
    for message in (s3_event(BUCKET, KEY), sns(s3_event(BUCKET, KEY)), s3_event(BUCKET, KEY, sequencer="00")):
        assert came(world, message) is Disposition.ACK
    assert len(documents(world)) == 1
    assert world.run(documents(world)[0]) is State.AVAILABLE
    assert came(world, s3_event(BUCKET, KEY)) is Disposition.ACK
    assert len(documents(world)) == 1
    assert letters(world) == []


def test_ten_at_once_make_one_document(world: World) -> None:
    put(world)
    message = s3_event(BUCKET, KEY)
    assert set(at_once([lambda: came(world, message)] * 10)) == {Disposition.ACK}
    assert len(documents(world)) == 1


@pytest.mark.parametrize(
    "message",
    [
        s3_event("somebody-elses", KEY),
        s3_event(BUCKET, "no/key/of/ours"),
        s3_event(BUCKET, f"drop/{TENANT}/gone.csv"),
        s3_event(BUCKET, f"drop/{TENANT}/folder/", details={"size": 0}),
        s3_event(BUCKET, KEY, eventName="ObjectRemoved:Delete"),
        s3_test_event(),
    ],
)
def test_what_is_none_of_ours_is_acknowledged_and_makes_nothing(world: World, message: bytes) -> None:
    put(world)
    assert came(world, message) is Disposition.ACK
    assert documents(world) == []
    assert letters(world) == []


@pytest.mark.cwe("CWE-345")
def test_nothing_is_believed_but_where_to_look(world: World) -> None:
    put(world, body=b"nine byte")
    claims = {"size": 1 << 40, "eTag": "0" * 32, "versionId": "made-up"}
    assert came(world, s3_event(BUCKET, KEY, details=claims)) is Disposition.ACK
    [document_id] = documents(world)
    assert world.document(document_id).size == 9


def test_what_nobody_can_read_is_kept_once_with_its_text_and_a_count(world: World) -> None:
    body = '{"Records": "Grüße"}'.encode()
    for _ in range(3):
        assert came(world, body) is Disposition.ACK
    [letter] = letters(world)
    assert (letter.source, letter.count, letter.body) == ("sqs/landed", 3, body.decode())
    assert "no records" in letter.reason
    with pytest.raises(BadRequest, match="no records"):
        retake(letter, world.services)
    assert len(letters(world)) == 1


def test_a_tenant_without_a_key_is_mended_and_then_taken(world: World) -> None:
    key = "drop/newcomer/a.csv"
    put(world, key)
    assert came(world, s3_event(BUCKET, key)) is Disposition.ACK
    [letter] = letters(world)
    assert letter.reason.startswith("not-found: ")
    assert key not in letter.reason
    with pytest.raises(BadRequest):
        retake(letter, world.services)
    make_key(world.services.ledger, "newcomer")
    retake(letter, world.services)
    assert letters(world) == []
    with world.services.ledger.reading() as tx:
        assert len(tx.documents(Filters("newcomer"), limit=10)[0]) == 1


def test_good_records_are_landed_beside_one_that_is_poison(world: World) -> None:
    put(world)
    records = [s3_record(BUCKET, KEY), {"eventName": "ObjectCreated:Put"}, s3_record(BUCKET, "drop/nobody/x")]
    put(world, "drop/nobody/x")
    assert came(world, json.dumps({"Records": records}).encode()) is Disposition.ACK
    assert len(documents(world)) == 1
    assert len(letters(world)) == 1


def test_a_message_waits_while_the_store_is_away_and_is_not_buried_for_it(world: World) -> None:
    real = world.services.quarantine
    put(world)
    world.place(quarantine=Failing(StoreUnavailable()))
    records = [s3_record(BUCKET, KEY), {"eventName": "ObjectCreated:Put"}]
    message = json.dumps({"Records": records}).encode()
    for attempt in (None, 1, 100):
        assert came(world, message, attempt=attempt) is Disposition.RETRY
    assert letters(world) == []
    world.place(quarantine=real)
    assert came(world, message, attempt=101) is Disposition.ACK
    assert len(documents(world)) == 1
    assert len(letters(world)) == 1
    world.place(quarantine=Failing(StoreUnavailable()))
    put_back = letters(world)[0]
    with pytest.raises(Unavailable):
        retake(put_back, world.services)


def test_a_fault_that_never_passes_ends_as_a_dead_letter(world: World) -> None:
    world.place(quarantine=Failing(StoreError("The store says 500.")))
    message = s3_event(BUCKET, KEY)
    assert came(world, message) is Disposition.RETRY
    assert came(world, message, attempt=world.services.settings.max_tries - 1) is Disposition.RETRY
    assert came(world, message, attempt=world.services.settings.max_tries) is Disposition.ACK
    [letter] = letters(world)
    assert letter.reason == "store-error: The store says 500."


def test_a_bug_of_ours_loops_nothing_and_tells_nothing(world: World) -> None:
    world.place(quarantine=Failing(RuntimeError("secret at /var/lib")))
    assert came(world, s3_event(BUCKET, KEY)) is Disposition.ACK
    [letter] = letters(world)
    assert letter.reason == "internal-error: landing it ended in RuntimeError"


def test_a_store_and_a_database_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    address = f"127.0.0.1:{free_port()}"
    buckets = {
        f"{role}_url": f"s3://{role}?endpoint=http://{address}&region=us-east-1&path_style=1"
        for role in ("quarantine", "serving")
    }
    with_ledger = Services(Settings(var_dir=tmp_path, **buckets))  # type: ignore[arg-type]
    with_ledger.ledger.upgrade()
    without = Services(Settings(var_dir=tmp_path, database_url=f"postgresql://a:b@{address}/c"))
    for services, message in (
        (with_ledger, s3_event(BUCKET, KEY)),
        (without, s3_event(BUCKET, f"standard/acme/{UUID(int=1)}/original")),
        (without, b"nonsense"),
    ):
        assert take(message, {}, s3.read, services, source="sqs/landed") is Disposition.RETRY
    with_ledger.close()
    without.close()


def test_letters_of_other_kinds_and_cut_ones_are_not_taken_again(world: World) -> None:
    take(b"x" * 70_000, {}, s3.read, world.services, source="sqs/landed")
    take(b"\xff", {}, s3.read, world.services, source="sqs/landed")
    take(b"{}", {}, s3.read, world.services, source="tasks")
    for letter in letters(world):
        with pytest.raises(BadRequest, match=r"Only a part|not about an object"):
            retake(letter, world.services)
    assert {letter.size for letter in letters(world)} == {70_000, 1, 2}


def test_a_message_whose_words_are_all_beside_its_body(world: World) -> None:
    from pipeline.events import gcs

    key = "drop/nobody/x"
    put(world, key)
    attributes = gcs_attributes(BUCKET, key)
    for _ in range(2):
        assert take(b"", attributes, gcs.read, world.services, source="pubsub/landed") is Disposition.ACK
    [letter] = letters(world)
    assert (letter.count, letter.attributes) == (2, attributes)
    make_key(world.services.ledger, "nobody")
    retake(letter, world.services)
    assert letters(world) == []


def test_the_ledger_is_asked_for_nothing_by_a_message_of_another_bucket(world: World) -> None:
    world.place(ledger=Ledger(f"postgresql://a:b@127.0.0.1:{free_port()}/c"))
    assert came(world, s3_event("somebody-elses", KEY)) is Disposition.ACK

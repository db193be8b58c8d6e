"""What only S3 can get wrong: the plan of a joined object's parts, and parts that somebody replaced."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ObjectNotFound, PreconditionFailed
from pipeline.storage import s3_resumable, s3_stretch
from pipeline.storage.abilities import Progress, SentPart, token_of
from pipeline.storage.base import ObjectRef, ObjectStat
from pipeline.storage.s3 import S3Store, open_s3
from pipeline.storage.s3_compose import plan
from pipeline.storage.s3_parts import LEAST, MOST
from pipeline.storage.s3_resumable import Rest, State
from tests.servers.seaweedfs import S3Server

KEY = "standard/acme/0/original"
MIB = 1 << 20


@pytest.fixture(scope="module")
def store(s3_server: S3Server) -> S3Store:
    made = open_s3("replaced", endpoint=s3_server.endpoint, region="us-east-1", path_style=True)
    made.ensure_bucket()
    return made


def stat(number: int, size: int) -> ObjectStat:
    return ObjectStat(ObjectRef("b", f"piece-{number}", "1"), size, datetime.now(UTC))


SIZES = st.one_of(
    st.integers(0, 3 * LEAST), st.sampled_from([0, 1, LEAST - 1, LEAST, LEAST + 1, 2 * LEAST, 600 * MIB, 20 << 30])
)


@settings(deadline=None)
@given(sizes=st.lists(SIZES, max_size=60), most=st.sampled_from([LEAST, 512 * MIB, 5 << 30]))
def test_every_byte_is_in_one_part_and_no_part_is_too_small(sizes: list[int], most: int) -> None:
    sources = [stat(number, size) for number, size in enumerate(sizes)]
    parts = list(plan(sources, most))
    spans = [(span.source.ref.key, span.start, span.end) for part in parts for span in part]
    at = 0
    for source in sources:  # in order, without a gap
        mine = [span for span in spans if span[0] == source.ref.key]
        assert spans[at : at + len(mine)] == mine
        assert [start for _, start, _ in mine] == [0, *[end for _, _, end in mine]][: len(mine)]
        assert (mine[-1][2] if mine else 0) == source.size
        at += len(mine)
    sizes_of = [sum(span.end - span.start for span in part) for part in parts]
    assert all(size >= LEAST for size in sizes_of[:-1])
    assert len(parts) <= MOST
    for part, size in zip(parts, sizes_of, strict=True):
        least = max(LEAST, -(-sum(sizes) // (MOST - 1)))
        assert size <= (max(most, least) if len(part) == 1 and size >= LEAST else 2 * least)


def test_more_small_sources_than_there_are_parts() -> None:
    parts = list(plan([stat(number, LEAST) for number in range(25_000)], 512 * MIB))
    assert len(parts) <= MOST
    assert sum(span.end - span.start for part in parts for span in part) == 25_000 * LEAST


def test_a_state_can_be_kept() -> None:
    state = State("m", "u", None, 2, 20, "c", Rest("k", '"v"', 3), (("k0", '"v0"'), ("k1", '"v1"')))
    assert State.of(state.progress) == state
    assert state.progress.offset == 23
    assert token_of(state.progress.state) == "u"
    early = State("m", headers={"ContentType": "text/plain", "Metadata": {"airlock-write": "m"}})
    assert State.of(early.progress) == early
    assert token_of(early.progress.state) == "m"


def test_a_state_stays_small() -> None:
    state = State("m" * 16, "u" * 200)
    for number in range(1, 10_001):
        state = state.with_rest(Rest("k" * 120, "v" * 40, 5)).with_part(SentPart(number, LEAST, "t" * 32))
    assert len(state.progress.state) < 4096


@pytest.mark.cwe(362)
def test_a_part_that_somebody_replaced_is_never_shown(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 keeps the part that was sent last; SeaweedFS lists both, so here the other one is hidden from the list."""
    begun = store.begin(KEY)
    late = store.resume(KEY, begun)
    late.write(b"t" * 8 * MIB)
    with store.resume(KEY, begun) as writer:
        writer.write(b"o" * 8 * MIB)
        kept = writer.checkpoint()
    lost = late.checkpoint()
    late.close()
    both, theirs = s3_resumable.listed, State.of(lost)

    def last(*args: Any) -> Iterator[list[SentPart]]:
        for sent in both(*args):
            yield [part for part in sent if State(theirs.mark).with_part(part).chain == theirs.chain]

    with monkeypatch.context() as patch:
        patch.setattr(s3_resumable, "listed", last)
        with pytest.raises(PreconditionFailed):
            store.finish(KEY, kept)
    with pytest.raises(ObjectNotFound):
        store.head(KEY)
    made = store.finish(KEY, kept)  # where both are there, the right one is taken
    assert b"".join(store.get(made.ref)) == b"o" * 8 * MIB
    store.drop(KEY, Progress(0, begun.state))


def test_close_waits_for_parts_in_flight(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that landed later would take the place of the next writer's."""
    arrived: list[int] = []

    def slow(client: Any, where: Any, upload: str, number: int, part: io.BytesIO) -> dict[str, Any]:
        time.sleep(0.2)
        arrived.append(number)
        return {"PartNumber": number, "ETag": '"x"'}

    monkeypatch.setattr(s3_stretch, "put_part", slow)
    key = "standard/acme/2/original"
    progress = store.begin(key)
    writer = store.resume(key, progress)
    writer.write(bytes(17 * MIB))
    writer.close()
    assert sorted(arrived) == [1, 2]
    store.drop(key, progress)


@pytest.mark.slow
def test_thousands_of_small_requests_do_not_use_up_the_numbers(store: S3Store) -> None:
    key = "standard/acme/1/original"
    progress, piece = store.begin(key), b"x" * LEAST
    for _ in range(1300):
        with store.resume(key, progress) as writer:
            writer.write(piece)
            progress = writer.checkpoint()
    state = State.of(progress)
    assert progress.offset == 1300 * LEAST
    assert state.parts == 1000 + 150
    assert store.finish(key, progress).size == 1300 * LEAST

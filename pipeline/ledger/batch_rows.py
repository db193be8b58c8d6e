"""Rows of batches to values and back."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from pipeline.batches import Batch, BatchEvent, BatchState, Item, ItemState, NewItem, Source
from pipeline.ledger.clock import instant, maybe_instant
from pipeline.ledger.rows import Columns, Line


def counts_of(found: Mapping[str, int]) -> dict[ItemState, int]:
    """Counts as they are kept."""
    return {ItemState(state): many for state, many in found.items()}


def counts_kept(counts: Mapping[ItemState, int]) -> dict[str, int]:
    """The same, to be kept."""
    return {state.value: many for state, many in counts.items()}


def batch_of(row: Line) -> Batch:
    """A row of `batches` as a value."""
    return Batch(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        state=BatchState(row.state),
        source=Source(row.source),
        correlation_id=row.correlation_id,
        prefix=row.prefix,
        last_key=row.last_key,
        listed=row.listed_at is not None,
        truncated=row.truncated_at is not None,
        counts=counts_of(row.counts),
        revision=row.revision,
        run=row.run,
        created_at=instant(row.created_at),
        updated_at=instant(row.updated_at),
        ended_at=maybe_instant(row.ended_at),
    )


def item_columns(batch_id: UUID, seq: int, item: NewItem) -> Columns:
    """A new item as a row of `batch_items`."""
    return {
        "batch_id": batch_id,
        "seq": seq,
        "state": ItemState.INVALID if item.problem else ItemState.WAITING,
        "line": item.line,
        "key": item.key,
        "version": item.version,
        "name": item.name,
        "declared_type": item.declared_type,
        "declared_sha256": item.declared_sha256,
        "document_id": item.document_id,
        "problem": item.problem,
    }


def item_of(row: Line) -> Item:
    """A row of `batch_items` as a value."""
    given = NewItem(
        key=row.key,
        document_id=row.document_id if row.key is None else None,
        version=row.version,
        name=row.name,
        declared_type=row.declared_type,
        declared_sha256=row.declared_sha256,
        line=row.line,
        problem=row.problem,
    )
    return Item(row.seq, ItemState(row.state), given, row.document_id, row.error)


def batch_event_of(row: Line) -> BatchEvent:
    """A row of `batch_events` as a value."""
    return BatchEvent(row.id, row.batch_id, row.tenant, row.run, row.kind, instant(row.at), row.facts)

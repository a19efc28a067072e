"""Responses: what `/v1/responses` was asked and what it answered, kept for the ones that go on from them.

Body and items are kept as JSON text, like stored completions and for the same reason. A response that is made in the
background is under way in one api process, which says so again and again: whose process has not said so for
`SILENT_FOR` has died with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import orjson
from sqlalchemy import ForeignKey, Index, delete, func, literal, select, update
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from foundation.errors import InvalidRequest, NotFound
from storage.database import Base, CreatedAt, Json, Timestamp

KEPT_FOR = timedelta(days=30)
"""As long as OpenAI keeps them."""
MAX_CHAIN = 1000
"""So many responses may go on from each other."""
MAX_CHAIN_BYTES = 8 * 1024 * 1024
"""Of them together, with all that they tell of their requests."""
SILENT_FOR = timedelta(seconds=30)
UNFINISHED = ("queued", "in_progress")
_ASKED = "asked"
"""In the body of one in the background that has not begun: its request."""


class ResponseNotFound(NotFound):
    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id}' not found.")


class PreviousResponseNotFound(InvalidRequest):
    """What a request wants to go on from is not there."""

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Previous response with id '{response_id}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )


class ResponseRow(Base):
    __tablename__ = "responses"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    previous_response_id: Mapped[str | None]
    """Of the same project; it may have been deleted since."""
    status: Mapped[str]
    input_json: Mapped[str]
    """The request's own items, each with its id."""
    body_json: Mapped[str]
    """The response as it is shown, its output among it."""
    is_background: Mapped[bool] = mapped_column(default=False)
    seen_at: Mapped[Timestamp] = mapped_column(server_default=func.clock_timestamp())
    """When the process that makes it last said that it does."""
    created_at: Mapped[CreatedAt] = mapped_column(index=True)

    @property
    def input(self) -> list[Json]:
        items: list[Json] = orjson.loads(self.input_json)
        return items

    @property
    def body(self) -> Json:
        body: Json = orjson.loads(self.body_json)
        body.pop(_ASKED, None)
        return body

    @property
    def asked(self) -> Json:
        """The request of one in the background that has not begun."""
        asked: Json = orjson.loads(self.body_json)[_ASKED]
        return asked

    @property
    def items(self) -> list[Json]:
        """What was said in this turn, by both."""
        return self.input + list(self.body["output"])


def create(
    session: Session,
    project_id: str,
    *,
    body: Mapping[str, object],
    input: Sequence[Json],
    asked: Json | None = None,
) -> None:
    """`asked` is kept until it begins: a request that waits is in no process's memory."""
    kept = body if asked is None else {**body, _ASKED: asked}
    session.add(
        ResponseRow(
            id=body["id"],
            project_id=project_id,
            previous_response_id=body["previous_response_id"],
            status=body["status"],
            input_json=orjson.dumps(input).decode(),
            body_json=orjson.dumps(kept).decode(),
            is_background=bool(body["background"]),
        )
    )
    session.flush()


def get(session: Session, project_id: str, response_id: str) -> ResponseRow:
    """Raises ResponseNotFound."""
    row = session.get(ResponseRow, response_id)
    if row is None or row.project_id != project_id:
        raise ResponseNotFound(response_id)
    return row


def items_up_to(session: Session, project_id: str, response_id: str) -> list[Json]:
    """All that was said up to and with a response, the oldest first. Raises InvalidRequest."""
    first = (
        select(ResponseRow.id, ResponseRow.previous_response_id, literal(1).label("depth"))
        .where(ResponseRow.project_id == project_id, ResponseRow.id == response_id)
        .cte("chain", recursive=True)
    )
    before = aliased(ResponseRow)
    chain = first.union_all(
        select(before.id, before.previous_response_id, first.c.depth + 1).where(
            before.project_id == project_id,
            before.id == first.c.previous_response_id,
            first.c.depth <= MAX_CHAIN,
        )
    )
    of_chain = chain.c.id == ResponseRow.id
    size = func.octet_length(ResponseRow.input_json) + func.octet_length(ResponseRow.body_json)
    num_bytes = session.scalar(select(func.sum(size)).join_from(chain, ResponseRow, of_chain)) or 0
    # Before any of it is in memory.
    if num_bytes > MAX_CHAIN_BYTES:
        raise InvalidRequest(
            f"Response '{response_id}' and those before it are {num_bytes} bytes, and at most {MAX_CHAIN_BYTES} can be "
            "gone on from. Begin anew, with what is still needed in 'input'.",
            param="previous_response_id",
        )
    query = select(ResponseRow).join(chain, of_chain)
    rows = list(session.scalars(query.order_by(chain.c.depth.desc())))
    if not rows:
        raise PreviousResponseNotFound(response_id)
    if len(rows) > MAX_CHAIN:
        raise InvalidRequest(
            f"Response '{response_id}' has more than {MAX_CHAIN} responses before it, which is too many to go on from. "
            "Begin anew, with what is still needed in 'input'.",
            param="previous_response_id",
        )
    if rows[0].previous_response_id is not None:
        # Without it the model would answer as if something had not been said.
        raise PreviousResponseNotFound(rows[0].previous_response_id)
    if rows[-1].status in UNFINISHED and not _is_silent(session, rows[-1]):
        raise InvalidRequest(
            f"Response '{response_id}' is still {rows[-1].status}. Go on from it when it is complete.",
            param="previous_response_id",
        )
    return [item for row in rows for item in row.items]


def count_unfinished(session: Session, project_id: str) -> int:
    """How many the project has in the background."""
    count = session.scalar(
        select(func.count()).where(
            ResponseRow.project_id == project_id,
            ResponseRow.status.in_(UNFINISHED),
            ResponseRow.seen_at > func.clock_timestamp() - SILENT_FOR,
        )
    )
    return count or 0


def find_waiting(session: Session, response_id: str) -> ResponseRow | None:
    """One in the background that has not begun; None if it is no longer wanted."""
    row = session.get(ResponseRow, response_id)
    return row if row is not None and row.status == "queued" else None


def go_on(session: Session, response_id: str, body: Mapping[str, object] | None = None) -> bool:
    """Keep that somebody is at a response in the background, and how far it is once it has begun. False if it is
    no longer wanted: cancelled, or deleted."""
    values: Json = {}
    if body is not None:
        values = {"status": body["status"], "body_json": orjson.dumps(body).decode()}
    changed = session.execute(
        update(ResponseRow)
        .where(ResponseRow.id == response_id, ResponseRow.status.in_(UNFINISHED))
        .values(seen_at=func.clock_timestamp(), **values)
        .returning(ResponseRow.id)
    )
    return changed.first() is not None


def look(session: Session, project_id: str, response_id: str) -> tuple[ResponseRow, bool]:
    """A response, and whether it is unfinished with nobody at it any more. Raises ResponseNotFound."""
    row = get(session, project_id, response_id)
    return row, row.status in UNFINISHED and _is_silent(session, row)


def _is_silent(session: Session, row: ResponseRow) -> bool:
    return bool(session.scalar(select(func.clock_timestamp() - SILENT_FOR > row.seen_at)))


def cancel(session: Session, project_id: str, response_id: str) -> Json:
    """The response, cancelled if it had not ended. Raises ResponseNotFound, and InvalidRequest for one
    that was not made in the background."""
    row = session.scalar(
        select(ResponseRow)
        .where(ResponseRow.id == response_id, ResponseRow.project_id == project_id)
        .with_for_update()
    )
    if row is None:
        raise ResponseNotFound(response_id)
    if not row.is_background:
        raise InvalidRequest(
            "Cannot cancel a synchronous response: only those created with 'background': true can be cancelled."
        )
    body = row.body
    if row.status in UNFINISHED:
        row.status = "cancelled"
        body = {**body, "status": row.status}
        row.body_json = orjson.dumps(body).decode()
        session.flush()
    return body


def remove(session: Session, project_id: str, response_id: str) -> None:
    session.delete(get(session, project_id, response_id))
    session.flush()


def remove_expired(session: Session) -> None:
    """Take away what was kept for `KEPT_FOR`."""
    session.execute(
        delete(ResponseRow)
        .where(ResponseRow.created_at <= func.now() - KEPT_FOR)
        .execution_options(synchronize_session=False)
    )

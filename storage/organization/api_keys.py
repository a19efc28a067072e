"""API keys. Only a key's SHA-256 is stored: keys carry 190 random bits, so no slow hash is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Select,
    String,
    any_,
    bindparam,
    func,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, NotFound
from storage import pages
from storage.database import Base, CreatedAt, Timestamp
from storage.ids import new_id

from .projects import ProjectRow
from .service_accounts import ServiceAccountRow

Kind = Literal["project", "admin"]

INTERNAL_KEY_ID = "internal"
"""Stands for the key that Luthier's own processes know each other by; it is in no row."""


class ApiKeyRow(Base):
    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("kind IN ('project', 'admin')", name="kind"),
        CheckConstraint("kind = 'admin' OR project_id IS NOT NULL", name="project"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"), index=True)
    service_account_id: Mapped[str | None] = mapped_column(
        ForeignKey("service_accounts.id"), index=True
    )
    """Who holds a project's key; none holds those that the operator made at the start."""
    kind: Mapped[str]
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    """The key's last four characters, to tell keys apart."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp | None]
    revoked_at: Mapped[Timestamp | None]
    last_used_at: Mapped[Timestamp | None]


@dataclass(frozen=True)
class Caller:
    """Who a request comes from. An admin key belongs to no project."""

    key_id: str
    kind: Kind
    project_id: str
    organization_id: str
    organization_slug: str
    guards_input: bool = False
    guards_output: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    weight: int = 1
    """As its project has it."""
    is_owner: bool = False
    """May change what protects the project from its own users: by a key that the operator made, or one of a service
    account with the role `owner`."""

    @property
    def is_guarded(self) -> bool:
        """Something of the project's inference is judged by a classifier."""
        return self.guards_input or self.guards_output

    @property
    def is_internal(self) -> bool:
        """One of Luthier's own processes, acting for the project."""
        return self.key_id == INTERNAL_KEY_ID


def new_key(kind: Kind) -> str:
    return new_id("sk-admin-" if kind == "admin" else "sk-proj-", 32)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create(
    session: Session,
    key: str,
    *,
    kind: Kind,
    name: str,
    project_id: str | None,
    service_account_id: str | None = None,
    expires_in_s: int | None = None,
) -> ApiKeyRow:
    """Store a key's hash. The key itself is the caller's to show, once."""
    row = ApiKeyRow(
        id=new_id("key_"),
        project_id=project_id,
        service_account_id=service_account_id,
        kind=kind,
        name=name,
        sha256=digest(key),
        hint=key[-4:],
    )
    session.add(row)
    session.flush()
    if expires_in_s is not None:
        set_expiry(session, row, expires_in_s)
    return row


def set_expiry(session: Session, row: ApiKeyRow, expires_in_s: int) -> None:
    """Counted from now."""
    now = session.scalars(select(func.clock_timestamp())).one()
    row.expires_at = now + timedelta(seconds=expires_in_s)
    session.flush()


def find(session: Session, project_id: str | None, key_id: str) -> ApiKeyRow | None:
    """A key of the project, or an admin key (`None`), that was not deleted."""
    query = _of(project_id).where(ApiKeyRow.id == key_id)
    return session.scalar(query)


def get(session: Session, project_id: str | None, key_id: str) -> ApiKeyRow:
    row = find(session, project_id, key_id)
    if row is None:
        raise NotFound(f"No API key found with id '{key_id}'.")
    return row


def page(
    session: Session,
    project_id: str | None,
    *,
    after: str | None,
    limit: int,
    descending: bool = False,
) -> pages.RowPage[ApiKeyRow]:
    """A project's keys, or the admin keys; expired ones, too."""
    return pages.read(
        session,
        _of(project_id),
        ApiKeyRow.created_at,
        ApiKeyRow.id,
        after=find(session, project_id, after) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=descending,
    )


def is_unexpired(session: Session, row: ApiKeyRow) -> bool:
    return session.scalar(select(_is_unexpired()).where(ApiKeyRow.id == row.id)) is True


def revoke(session: Session, project_id: str, key_id: str) -> None:
    """End a key: from the next request on it does not work. The row stays for what points at it."""
    _revoke(session, ApiKeyRow.id == get(session, project_id, key_id).id)


def revoke_all_of(session: Session, service_account_id: str) -> None:
    _revoke(session, ApiKeyRow.service_account_id == service_account_id)


def revoke_admin(session: Session, key_id: str) -> None:
    """Raises InvalidRequest for the last admin key that works: nobody could make another."""
    # Two who delete the last two keys at once wait for each other here.
    working = session.scalars(
        _of(None).where(_is_unexpired()).order_by(ApiKeyRow.id).with_for_update()
    ).all()
    if not {row.id for row in working} - {get(session, None, key_id).id}:
        raise InvalidRequest("The last admin key cannot be deleted. Create another one first.")
    _revoke(session, ApiKeyRow.id == key_id)


def find_caller(session: Session, key: str) -> Caller | None:
    """The live key's caller, or None."""
    return find_callers(session, [key]).get(key)


def find_callers(session: Session, keys: Sequence[str]) -> dict[str, Caller]:
    """The callers of those keys that live. The look-up is by hash, so timing tells nothing of a key."""
    by_hash = {digest(key): key for key in keys}
    callers: dict[str, Caller] = {}
    used: list[str] = []
    for found in session.execute(_FIND_CALLERS, {"hashes": list(by_hash)}):
        if not found.is_use_noted:
            used.append(found.id)
        callers[by_hash[found.sha256]] = _caller(found)
    if used:
        _note_use(session, used)
    return callers


def caller_of_key(session: Session, key_id: str) -> Caller | None:
    """The caller by a key that lives, for whoever stands for it: a session of the page."""
    found = session.execute(_CALLERS.where(ApiKeyRow.id == key_id)).first()
    return None if found is None else _caller(found)


def _caller(found: Any) -> Caller:
    return Caller(
        key_id=found.id,
        kind="admin" if found.kind == "admin" else "project",
        project_id=found.project_id or "",
        organization_id=found.organization_id or "",
        organization_slug=found.organization_slug or "",
        guards_input=bool(found.guards_input),
        guards_output=bool(found.guards_output),
        requests_per_minute=found.requests_per_minute,
        tokens_per_minute=found.tokens_per_minute,
        weight=found.weight or 1,
        is_owner=found.role in (None, "owner"),
    )


def internal_caller(session: Session, project_id: str) -> Caller | None:
    """One of Luthier's own processes acting for a live project; None if there is no such project."""
    project = session.scalar(
        select(ProjectRow).where(ProjectRow.id == project_id, ProjectRow.archived_at.is_(None))
    )
    if project is None:
        return None
    return Caller(
        key_id=INTERNAL_KEY_ID,
        kind="project",
        project_id=project.id,
        organization_id=project.organization_id,
        organization_slug=project.organization_slug,
        guards_input=project.guards_input,
        guards_output=project.guards_output,
        requests_per_minute=project.requests_per_minute,
        tokens_per_minute=project.tokens_per_minute,
        weight=project.weight,
    )


def _note_use(session: Session, key_ids: list[str]) -> None:
    session.execute(
        update(ApiKeyRow)
        .where(ApiKeyRow.id.in_(key_ids), not_(_is_use_noted()))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )


def _is_use_noted() -> ColumnElement[bool]:
    """Once a minute is enough: a poller must not write at every request."""
    a_minute_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 1)
    return func.coalesce(ApiKeyRow.last_used_at > a_minute_ago, False)


_CALLERS = (
    select(
        ApiKeyRow.id,
        ApiKeyRow.sha256,
        ApiKeyRow.kind,
        _is_use_noted().label("is_use_noted"),
        ProjectRow.id.label("project_id"),
        ProjectRow.organization_id,
        ProjectRow.organization_slug,
        ProjectRow.guards_input,
        ProjectRow.guards_output,
        ProjectRow.requests_per_minute,
        ProjectRow.tokens_per_minute,
        ProjectRow.weight,
        ServiceAccountRow.role,
    )
    .outerjoin(ProjectRow, ApiKeyRow.project_id == ProjectRow.id)
    .outerjoin(ServiceAccountRow, ApiKeyRow.service_account_id == ServiceAccountRow.id)
    .where(
        ApiKeyRow.revoked_at.is_(None),
        or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > func.now()),
        ProjectRow.archived_at.is_(None),
    )
)
"""Of every key that lives."""
# Each request asks this, so it is put together once.
_FIND_CALLERS = _CALLERS.where(ApiKeyRow.sha256 == any_(bindparam("hashes", type_=ARRAY(String))))


def _of(project_id: str | None) -> Select[ApiKeyRow]:
    kind = ApiKeyRow.kind == ("admin" if project_id is None else "project")
    owner = (
        ApiKeyRow.project_id.is_(None) if project_id is None else ApiKeyRow.project_id == project_id
    )
    return select(ApiKeyRow).where(kind, owner, ApiKeyRow.revoked_at.is_(None))


def _is_unexpired() -> ColumnElement[bool]:
    return or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > func.now())


def _revoke(session: Session, which: ColumnElement[bool]) -> None:
    session.execute(
        update(ApiKeyRow)
        .where(which, ApiKeyRow.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )

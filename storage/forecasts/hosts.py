"""The machines that train, as their workers last told of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation import machine, memory
from storage.database import Base, CreatedAt, Int64

REPORT_S = 30.0
SEEN_S = 24 * 3600
"""For so long what a worker told is taken for what there is: machines come back with what they had."""


@dataclass(frozen=True)
class Host:
    type: str
    """Machines of one type are about as fast as each other."""
    num_cores: int
    has_gpu: bool
    memory_bytes: int | None
    """That a job may have; None where nobody says, or a GPU's counts instead."""
    precision: str
    """That a base is computed in, mostly."""

    @classmethod
    def here(cls) -> Host:
        has_gpu, cores = memory.has_gpu(), machine.num_cores()
        name = machine.gpu() if has_gpu else machine.processor()
        return cls(
            type=f"{name or 'unknown'}, {cores} cores",
            num_cores=cores,
            has_gpu=has_gpu,
            memory_bytes=None if has_gpu else memory.total_bytes(),
            precision="bf16" if has_gpu or machine.multiplies_bf16() else "fp32",
        )

    @property
    def itemsize(self) -> int:
        return 2 if self.precision == "bf16" else 4


class WorkerRow(Base):
    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    """As in its leases."""
    host_type: Mapped[str]
    num_cores: Mapped[int]
    has_gpu: Mapped[bool]
    memory_bytes: Mapped[Int64 | None]
    precision: Mapped[str]
    seen_at: Mapped[CreatedAt]

    @property
    def host(self) -> Host:
        return Host(self.host_type, self.num_cores, self.has_gpu, self.memory_bytes, self.precision)


def report(session: Session, name: str, host: Host) -> None:
    """A worker tells that it is there. Those that have been silent for long are forgotten."""
    values = {
        "host_type": host.type,
        "num_cores": host.num_cores,
        "has_gpu": host.has_gpu,
        "memory_bytes": host.memory_bytes,
        "precision": host.precision,
        "seen_at": func.clock_timestamp(),
    }
    session.execute(
        insert(WorkerRow)
        .values(name=name, **values)
        .on_conflict_do_update(index_elements=["name"], set_=values)
    )
    old = WorkerRow.seen_at < func.clock_timestamp() - timedelta(seconds=SEEN_S)
    session.execute(delete(WorkerRow).where(old))


def seen(session: Session) -> list[Host]:
    """One of each kind that a worker told of lately, the one that was heard last first."""
    recent = WorkerRow.seen_at >= func.clock_timestamp() - timedelta(seconds=SEEN_S)
    rows = session.scalars(select(WorkerRow).where(recent).order_by(WorkerRow.seen_at.desc()))
    return list(dict.fromkeys(row.host for row in rows))


def most_bytes(found: list[Host]) -> int | None:
    """That the largest of them has; None if it is not known of every one."""
    sizes = [host.memory_bytes for host in found]
    if not sizes or None in sizes:
        return None
    return max(size for size in sizes if size is not None)

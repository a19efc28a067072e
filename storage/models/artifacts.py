"""Artifacts: what training made. An id is never reused and its blob never changes, so it is the key of every cache."""

from __future__ import annotations

from sqlalchemy import ForeignKey, delete, exists, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64, Json

HEADED_KINDS = frozenset({"classifier"})
"""Kinds that end in a head of their own: they say something about a text and write none."""
SERVED_KINDS = frozenset({"lora", "prefix", "output_layers", "full"}) | HEADED_KINDS
"""Kinds that the inference servers serve, on top of a base or in its place."""
TRAINABLE_FROM = frozenset({"lora", "prefix", "output_layers", "full", "classifier"})
"""Kinds that training goes on from."""
PEFT_KINDS = frozenset({"lora", "prefix", "classifier"})
"""Kinds that PEFT has a format for."""
MERGEABLE_KINDS = frozenset({"lora", "output_layers", "full"})
"""Kinds that are a change of the base's weights."""
DIALLED_KINDS = frozenset({"lora"})
"""Kinds that can be asked for at a strength (`storage.models.strengths`)."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The last names of the layers that an adapter can reach."""
MAX_ADAPTER_RANK = 512
"""As much as an adapter that is read may have (modeling/artifacts/lora.py)."""
MIN_PREFIX_TOKENS = 2
"""Virtual tokens of a prefix that is trained: the first one stays as it is."""


def served_kinds() -> str:
    """The kinds that can be served, as messages name them."""
    return ", ".join(sorted(SERVED_KINDS))


class ArtifactRow(Base):
    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    base_model: Mapped[str]
    kind: Mapped[str]
    """What it is and in which format: "lora", …; see modeling/artifacts."""
    spec: Mapped[Json]
    """What is particular to its kind; a LoRA adapter's rank, for example."""
    tensors: Mapped[Json | None] = mapped_column(deferred=True)
    """By name `{dtype, shape, sha256}`; None where an earlier version made it. Read when asked for only."""
    size_bytes: Mapped[Int64]
    sha256: Mapped[str]
    """Of the blob, as its size."""
    created_at: Mapped[CreatedAt]

    @property
    def blob_key(self) -> str:
        return artifact_keys.key(self.id)


def create(
    session: Session,
    artifact_id: str,
    *,
    project_id: str,
    base_model: str,
    kind: str,
    spec: Json,
    tensors: Json | None,
    blob: BlobInfo,
) -> ArtifactRow:
    row = ArtifactRow(
        id=artifact_id,
        project_id=project_id,
        base_model=base_model,
        kind=kind,
        spec=spec,
        tensors=tensors,
        size_bytes=blob.size_bytes,
        sha256=blob.sha256,
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, artifact_id: str) -> ArtifactRow | None:
    """Find an artifact by an id out of a row, never out of a request: a permission lets a project use another's."""
    return session.get(ArtifactRow, artifact_id)


def known_keys(session: Session, keys: list[str]) -> set[str]:
    """Those of the blobs' keys that belong to an artifact."""
    ids = [artifact_keys.artifact_id(key) for key in keys]
    query = select(ArtifactRow.id).where(ArtifactRow.id.in_(ids))
    return {artifact_keys.key(artifact_id) for artifact_id in session.scalars(query)}


def remove_unused(session: Session, artifact_ids: list[str]) -> list[str]:
    """Take away those that no model, checkpoint or job refers to any more; gives their blobs' keys."""
    from storage.jobs.jobs import ACTIVE, JobRow

    from .models import ModelRow

    is_used = exists().where(ModelRow.artifact_id == ArtifactRow.id) | exists().where(
        JobRow.init_artifact_id == ArtifactRow.id, JobRow.status.in_(ACTIVE)
    )
    # Wait for whoever is about to refer to one (`models.find_to_train`), and look after that.
    session.execute(
        select(ArtifactRow.id).where(ArtifactRow.id.in_(artifact_ids)).with_for_update()
    )
    gone = session.scalars(
        delete(ArtifactRow)
        .where(ArtifactRow.id.in_(artifact_ids), ~is_used)
        .returning(ArtifactRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    return [artifact_keys.key(artifact_id) for artifact_id in gone]

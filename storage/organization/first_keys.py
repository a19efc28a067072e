"""`python -m storage.organization.first_keys`: a project and its first keys, so that a new server can be used, and the secrets
in the database sealed with the key that is given now.

With LUTHIER_API_KEY and LUTHIER_ADMIN_KEY the keys are the operator's; otherwise they are made once and
written to DATA/api_key and DATA/admin_key, readable by their owner alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic_settings import SettingsConfigDict
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from foundation.errors import LuthierError
from foundation.settings import EnvironmentSettings, Settings
from foundation.vault import CannotOpen
from storage import sealed
from storage.database import sessions, sync_engine
from storage.schema import OtherSchema

from . import api_keys, projects

DEFAULT_PROJECT = "Default project"


class PresetKeys(EnvironmentSettings):
    """The operator's: the environment variables LUTHIER_API_KEY and LUTHIER_ADMIN_KEY."""

    model_config = SettingsConfigDict(env_prefix="LUTHIER_")

    api_key: str = ""
    admin_key: str = ""


def ensure(session: Session, data_dir: Path, preset: PresetKeys) -> None:
    """Safe to call at each start: what is there stays."""
    session.execute(text("SELECT pg_advisory_xact_lock(7021530912)"))
    project = session.scalar(
        select(projects.ProjectRow).order_by(projects.ProjectRow.created_at).limit(1)
    )
    if project is None:
        project = projects.create(session, DEFAULT_PROJECT)
    _ensure_key(session, "project", project.id, preset.api_key, data_dir / "api_key")
    _ensure_key(session, "admin", None, preset.admin_key, data_dir / "admin_key")


def _ensure_key(
    session: Session, kind: api_keys.Kind, project_id: str | None, preset: str, file: Path
) -> None:
    written = file.read_text().strip() if file.exists() else ""
    key = preset or written or api_keys.new_key(kind)
    if key != written:
        _write_private(file, key)
    is_known = select(api_keys.ApiKeyRow.id).where(
        api_keys.ApiKeyRow.sha256 == api_keys.digest(key)
    )
    if session.scalar(is_known) is None:
        api_keys.create(session, key, kind=kind, name="First key", project_id=project_id)


def _write_private(file: Path, content: str) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content + "\n")
    temporary.replace(file)


def main() -> None:
    try:
        settings = Settings.from_env().require("database_url")
    except LuthierError as error:
        sys.exit(str(error))
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = sync_engine(settings.database_url)
    try:
        with sessions(engine).begin() as session:
            ensure(session, settings.data_dir, PresetKeys.from_env())
            sealed.seal_anew(session, settings.vault())
    except (OtherSchema, CannotOpen) as error:
        sys.exit(str(error))
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()

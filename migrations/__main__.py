"""`python -m migrations`: bring the database of LUTHIER_DATABASE_URL up to date."""

from __future__ import annotations

from foundation.settings import Settings

from .upgrade import upgrade

upgrade(Settings.from_env().require("database_url").database_url)

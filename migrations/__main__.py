"""`python -m migrations`: bring the database of LUTHIER_DATABASE_URL up to date."""

from __future__ import annotations

import sys

from foundation.errors import LuthierError
from foundation.settings import Settings

from .upgrade import upgrade

try:
    upgrade(Settings.from_env().require("database_url").database_url)
except LuthierError as error:
    sys.exit(str(error))

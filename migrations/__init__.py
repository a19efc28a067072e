"""Alembic's migrations, and `python -m migrations`, which brings a database up to date."""

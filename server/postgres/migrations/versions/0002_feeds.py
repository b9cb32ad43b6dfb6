"""Feeds: the change log, its triggers, partitions and the epoch."""

from server.postgres.migrate import run_script

revision = "0002_feeds"
down_revision = "0001_app_tables"


def upgrade() -> None:
    run_script(revision)

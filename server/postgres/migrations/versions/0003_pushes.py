"""Pushes: what devices write, applied exactly once."""

from server.postgres.migrate import run_script

revision = "0003_pushes"
down_revision = "0002_feeds"


def upgrade() -> None:
    run_script(revision)

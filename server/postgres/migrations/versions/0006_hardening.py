"""Functions that nobody can hijack, tables that row level security keeps closed, and pushes that fail by themselves."""

from server.postgres.migrate import run_script

revision = "0006_hardening"
down_revision = "0005_archive"


def upgrade() -> None:
    run_script(revision)

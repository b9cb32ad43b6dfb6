"""The chat app's tables, row level security, and Supabase's roles where it is absent."""

from server.postgres.migrate import run_script

revision = "0001_app_tables"
down_revision = None


def upgrade() -> None:
    run_script(revision)

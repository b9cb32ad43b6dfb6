"""An archive for old months of messages, and partitions made without locking everybody out."""

from server.postgres.migrate import run_script

revision = "0005_archive"
down_revision = "0004_watching"


def upgrade() -> None:
    run_script(revision)

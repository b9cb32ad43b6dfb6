"""What operators ask: partitions, vital signs, where devices are."""

from server.postgres.migrate import run_script

revision = "0004_watching"
down_revision = "0003_pushes"


def upgrade() -> None:
    run_script(revision)

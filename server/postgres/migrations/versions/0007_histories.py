"""Histories with an order, transactions with a name, and numbers that mean one mutation in every history."""

from server.postgres.migrate import run_script

revision = "0007_histories"
down_revision = "0006_hardening"


def upgrade() -> None:
    run_script(revision)

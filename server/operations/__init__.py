"""What operators do with a database: adopt it, undo that, maintain it, mend it, find a message in it. Pure.

These modules compute plans and sentences from facts. `server.postgres` queries the facts and carries the plans out.
"""

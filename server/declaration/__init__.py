"""What is synced: the declaration, its check against the database, and the SQL that follows from it. Pure."""

"""The SQL that follows from a declaration. Pure."""

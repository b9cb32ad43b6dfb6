"""The agreement between devices and the server, as the server implements it; SPEC.md describes it."""

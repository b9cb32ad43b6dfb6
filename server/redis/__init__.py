"""Redis or Valkey: the only package that knows redis-py."""

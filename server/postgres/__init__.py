"""Postgres: the only package that knows asyncpg."""

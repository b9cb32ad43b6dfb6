"""The Atlas Sync server."""

"""The response cache for the app's backend. `cache` is its door; `server.library` opens one without a server."""

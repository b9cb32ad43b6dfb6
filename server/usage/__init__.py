"""Usage and costs: events of the server and of the app's backend, and what they cost."""

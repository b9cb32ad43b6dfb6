"""The demo's backend: a process beside the server that answers what a person asks, as the backend of a chat app would.

It has no model. It knows a few texts, and types one of them.
"""

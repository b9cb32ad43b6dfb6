"""The write path: applies the mutations of devices exactly once, and commits them in groups."""

"""Streams: texts that the app's backend writes, on their way to devices and into their rows."""

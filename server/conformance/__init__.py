"""A scripted server that tests any client of the protocol (protocol/CLIENT.md)."""

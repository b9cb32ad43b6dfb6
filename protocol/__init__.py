"""The contract between clients and servers: frames, their encodings, cursors, errors and closes."""

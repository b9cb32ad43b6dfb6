"""What both ends agree on: frames, encodings, cursors, close codes, and the Python client."""

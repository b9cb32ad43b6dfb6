"""The Atlas Sync server."""

import os

# prometheus-client treats an empty value as set, and would put its files into the working directory.
if os.environ.get("PROMETHEUS_MULTIPROC_DIR") == "":
    del os.environ["PROMETHEUS_MULTIPROC_DIR"]

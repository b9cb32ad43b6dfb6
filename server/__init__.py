"""The Atlas Sync server."""

import os

# prometheus-client, as soon as it is imported, takes an empty one for set: its files would be in the working directory.
if os.environ.get("PROMETHEUS_MULTIPROC_DIR") == "":
    del os.environ["PROMETHEUS_MULTIPROC_DIR"]

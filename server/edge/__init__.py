"""Where the network meets us."""

"""The write path: mutations that devices made, applied exactly once, committed in groups."""

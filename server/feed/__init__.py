"""The read path: which readers are behind, and how they get what they lack."""

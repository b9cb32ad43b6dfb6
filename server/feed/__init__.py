"""The read path: who is behind, by what, and how they are brought up."""

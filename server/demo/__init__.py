"""`atlas-sync demo`: everything on one machine, with real conversations to watch."""

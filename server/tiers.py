"""Which subscription tiers sync."""

from typing import Final

SYNCED: Final = frozenset({"core", "studio"})
"""Users of every other tier, and users without a profile, work on their devices alone."""

"""A browser, as the demo's page has it."""

from tests.browser.conftest import asker, chromium, person

__all__ = ["asker", "chromium", "person"]

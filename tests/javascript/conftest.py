"""A browser, as the demo's page has it."""

from tests.browser.conftest import chromium, person

__all__ = ["chromium", "person"]

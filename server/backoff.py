"""The old place of `server.retry.backoff`; it goes as soon as nothing imports it."""

from server.retry import backoff as backoff

"""Which history the database holds, as far as this process knows."""

import structlog

from server.feed import notices
from server.feed.hub import Hub

log = structlog.get_logger()


class History:
    """The epoch that every cursor handed out belongs to; empty before Postgres was first asked."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.epoch = ""

    def seen(self, epoch: str) -> None:
        """Postgres said this epoch. If it is another one than before, no position counts any more."""
        before, self.epoch = self.epoch, epoch
        if before and before != epoch:
            log.warning("history changed, every device starts over", before=before, now=epoch)
            for reader in self._hub.readers():
                notices.start_over(reader.sink)

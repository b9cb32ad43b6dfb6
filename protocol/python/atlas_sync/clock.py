"""The device's clock, and the server's clock as the device knows it (SPEC.md, 7.8 and 8.3)."""

import time

GREETED_WITHIN = 10_000_000  # microseconds; a greeting that took longer says too little about a clock


def now() -> int:
    """The device's own clock: microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def clock_ahead(believed: int, least: int, took: int) -> int:
    """How far the server's clock is ahead of the device's, in microseconds, after a new greeting.

    `least` is `welcome.time` less the device's time at receipt. The greeting took `took` microseconds, so every value
    from `least` to `least + took` is possible. `believed` is kept as far as it is possible: if both clocks are correct,
    the order of messages from two devices must not depend on their network delay.
    """
    return min(max(believed, least), least + took) if 0 <= took < GREETED_WITHIN else least


class ServerClock:
    """The server's clock, computed from the last `welcome`. The only place that knows the two offsets.

    `now` follows the device's wall clock, because a person's instants must follow it. `deadline` follows the event
    loop's clock, because nobody sets that one while a token is in use. `ahead` may be read: how far the server's clock
    is ahead of the wall clock, in microseconds.
    """

    def __init__(self, ahead: int = 0) -> None:
        self.ahead = ahead
        self._loop_offset = 0.0  # seconds: the server's clock less the loop's

    def set(self, server_time: int, *, took: float, loop_time: float) -> None:
        """Take over `welcome.time` (microseconds).

        It was received at `loop_time` (seconds), `took` seconds after the connection was opened.
        """
        self.ahead = clock_ahead(self.ahead, server_time - now(), round(took * 1_000_000))
        self._loop_offset = server_time / 1e6 - loop_time

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC by the server's clock; by the device's before the first `welcome`."""
        return now() + self.ahead

    def deadline(self, instant: int) -> float:
        """The time of the event loop's clock (seconds) at which the server's clock shows `instant` (microseconds)."""
        return instant / 1e6 - self._loop_offset

"""The server's metrics: `from server import metrics`, then `metrics.DELIVERY.observe(seconds)`.

`catalogue` lists them with what to do when one is bad, `limits` has the numbers from which on one is bad, `recording`
updates several at once, `exposition` serves them to Prometheus. Updates happen on the event loop's thread.
"""

from server.metrics.catalogue import *  # noqa: F403  # every metric by its name
from server.metrics.exposition import FOLDER as FOLDER
from server.metrics.exposition import expose as expose
from server.metrics.exposition import shared as shared
from server.metrics.instruments import BufferedCounter as BufferedCounter
from server.metrics.instruments import BufferedHistogram as BufferedHistogram
from server.metrics.limits import DEFAULT_ROWS_COUNTED as DEFAULT_ROWS_COUNTED
from server.metrics.recording import acked as acked
from server.metrics.recording import closed as closed
from server.metrics.recording import costs_today as costs_today
from server.metrics.recording import flush as flush
from server.metrics.recording import name_kinds as name_kinds
from server.metrics.recording import sent as sent

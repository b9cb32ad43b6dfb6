"""The door to the write path: decodes and checks a push, has it applied, and answers it."""

import time
from collections.abc import Callable
from uuid import UUID

from protocol.codec import Codec
from protocol.frames import Ack, Error, Push
from server import metrics
from server.clock import Clock
from server.declaration.synced import Synced
from server.write import rules
from server.write.batcher import Batcher
from server.write.push import OwnedPush


class Intake:
    """`mutations`: the most that one push may have."""

    def __init__(self, batcher: Batcher, clock: Clock, synced: Synced, *, mutations: int) -> None:
        self._batcher = batcher
        self._clock = clock
        self.mutations = mutations
        self._synced = synced
        self._forms: dict[str, rules.Form] = {}
        self._take_forms()
        synced.on_use.append(self._take_forms)

    def _take_forms(self) -> None:
        self._forms = rules.forms(self._synced.declaration)

    def apply(
        self,
        frame: Push,
        codec: Codec,
        answer: Callable[[Ack | Error], None],
        gone: Callable[[], bool],
        *,
        user: UUID,
        client_id: UUID,
        session: str,
        generation: int | None,
        claims_client_id: bool,
    ) -> None:
        """Apply the push, then call `answer` once; not if its connection is `gone` before. `session` is the
        connection's name."""
        arrived = time.perf_counter()

        def answered(result: Ack | Error) -> None:
            if isinstance(result, Ack):
                metrics.ACK_SECONDS.observe(time.perf_counter() - arrived)
                metrics.acked(result.results)
            else:
                metrics.PUSHES.labels(result.code).inc()
            answer(result)

        now = self._clock.now()
        push = OwnedPush(
            user=user,
            client_id=client_id,
            session=session,
            claims_client_id=claims_client_id,
            first=frame.n,
            mutations=[rules.check(codec.mutation(raw), self._forms, codec, now) for raw in frame.mutations],
            generation=generation,
            held=frame.held,
        )
        self._batcher.put(push, sum(map(len, frame.mutations)), answered, gone)

"""Messages go to the server one after the other, each made while the server works on the one before.

What has taken effect is told in the order in which it was sent; what comes after a message that failed is not sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from rulegen.dns.server import Question, Server, TooLargeError
from rulegen.dns.updates import Consequence, Message, Ownership, UpdateWriter
from rulegen.errors import ApplyError


class _Sent(NamedTuple):
    question: Question
    message: Message
    consequence: Consequence


class Sender:
    """For one Delta. `ownership`: as it is now. `took`: called with each message that has taken effect.

    `sent`: how many have, by zone.
    """

    def __init__(
        self, server: Server, ownership: Ownership, registry_ttl: int, took: Callable[[Message, Consequence], None]
    ) -> None:
        self._server = server
        # What will be so when all that was sent has taken effect.
        self._ahead = Ownership(ownership)
        self._registry_ttl = registry_ttl
        self._took = took
        self._writer = UpdateWriter()
        self._waiting: _Sent | None = None
        self.sent: Counter[str] = Counter()

    def send(self, message: Message) -> None:
        """A message, or where it is too large its halves. Raises ApplyError and HostError, also for the one before."""
        consequence = self._ahead.consequence(message, self._registry_ttl)
        try:
            question = self._server.question(message.zone, self._writer.update_of(message, consequence))
        except TooLargeError as error:
            halves = message.halves()
            if halves is None:
                raise ApplyError(f"{message.steps[0].key.owner}: too large for an update") from error
            for half in halves:
                self.send(half)
            return
        self.finish()
        self._server.ask(question)
        self._ahead.took(consequence)
        self._waiting = _Sent(question, message, consequence)

    def finish(self) -> None:
        """Waits for the last that was sent. Raises as `Server.take_effect` does."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._server.take_effect(waiting.question)
            self.sent[waiting.message.zone] += 1
            self._took(waiting.message, waiting.consequence)

"""Messages go to the server one after the other, each made while the server works on the one before.

What has taken effect is told in the order in which it was sent. Of a message that the server refuses, what it refuses
is found by halving, and the rest is sent; any other failure ends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from rulegen.dns.record_sets import RecordKey
from rulegen.dns.server import Question, Server, TooLargeError
from rulegen.dns.updates import Consequence, Message, Ownership, UpdateWriter
from rulegen.errors import ApplyError, StaleError

# A server that refuses more than some record sets, refuses.
_MOST_REFUSED = 20


class _Sent(NamedTuple):
    question: Question
    message: Message
    consequence: Consequence


class Sender:
    """For one Delta. `ownership`: as it is now. `took`: called with each message that has taken effect; keeps it so.

    `sent`: how many have, by zone. `refused`: record sets that the server does not take, and its words.
    """

    def __init__(
        self, server: Server, ownership: Ownership, registry_ttl: int, took: Callable[[Message, Consequence], None]
    ) -> None:
        self._server = server
        self._ownership = ownership
        # What will be so when all that was sent has taken effect.
        self._ahead = Ownership(ownership)
        self._registry_ttl = registry_ttl
        self._took = took
        self._writer = UpdateWriter()
        self._waiting: _Sent | None = None
        self.sent: Counter[str] = Counter()
        self.refused: dict[RecordKey, str] = {}

    def send(self, message: Message) -> None:
        """Returns before it has taken effect. Raises StaleError, ApplyError and HostError, also for the one before."""
        prepared = self._prepared(message)
        if not self.finish():
            # It was made for what was refused.
            prepared = self._prepared(message)
        for one in prepared:
            self.finish()
            self._server.ask(one.question)
            self._waiting = one

    def finish(self) -> bool:
        """Waits for the last that was sent. False: of that something was refused. Raises as `send`."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return True
        try:
            self._server.take_effect(waiting.question)
        except StaleError:
            raise
        except ApplyError as error:
            self._ahead = Ownership(self._ownership)
            self._send_parts(waiting.message, error)
            return False
        self.sent[waiting.message.zone] += 1
        self._took(waiting.message, waiting.consequence)
        return True

    def _send_parts(self, message: Message, error: ApplyError) -> None:
        """One by one, of a message that was refused."""
        halves = message.halves()
        if halves is None:
            self.refused[message.steps[0].key] = str(error)
            if len(self.refused) > _MOST_REFUSED:
                self.refused.clear()
                raise error
            return
        for half in halves:
            for one in self._prepared(half):
                self._server.ask(one.question)
                self._waiting = one
                self.finish()

    def _prepared(self, message: Message) -> list[_Sent]:
        """The message, or where it is too large its halves, without what cannot be since something was refused."""
        message = message._replace(steps=[step for step in message.steps if step.key not in self.refused])
        if not message.steps:
            return []
        consequence = self._ahead.consequence(message, self._registry_ttl)
        try:
            question = self._server.question(message.zone, self._writer.update_of(message, consequence))
        except TooLargeError as error:
            halves = message.halves()
            if halves is None:
                raise ApplyError(f"{message.steps[0].key.owner}: too large for an update") from error
            return [one for half in halves for one in self._prepared(half)]
        self._ahead.took(consequence)
        return [_Sent(question, message, consequence)]

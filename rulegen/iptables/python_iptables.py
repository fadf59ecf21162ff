"""python-iptables as the way into legacy iptables: the same steps as iptables-restore takes, one commit each.

libxtables serves one IP family in a process, ends the process where it sees no way on, and loads modules when it is
imported; so each family has a process of its own (`iptc_worker`), which stays, and is started again when it has died.
"""

from __future__ import annotations

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.interfaces import host_families
from rulegen.iptables import binaries
from rulegen.iptables.binaries import LOCK, LockedError, RestoreError, Variant
from rulegen.iptables.iptc_worker import LOCKED, NOT_UNDERSTOOD
from rulegen.iptables.names import escaped
from rulegen.iptables.transaction import Step
from rulegen.workers.process import WorkerDiedError, WorkerProcess

NAME = "python-iptables"
_INSTEAD = "use --iptables-driver iptables-restore"
# A process that takes longer is killed: many times what the largest changes need, at 0.5 ms for a rule.
_SECONDS = 60.0
_SECONDS_PER_LINE = 0.01
# Parts of rules that python-iptables 1.2.0 dies of (SIGSEGV): iptables-restore loads what has some.
_DEADLY = ("--match-set ", "-j NFLOG ")


class PythonLoader:
    """See `Loader`. `wait`: how long another program may hold the lock, in seconds.

    Raises HostError for the variant nft, without python-iptables, and where it does not understand the host's iptables.
    """

    def __init__(self, variant: Variant, wait: int) -> None:
        if variant is not Variant.LEGACY:
            raise HostError(f"{NAME} writes legacy iptables only, and this host's is the variant nft; {_INSTEAD}")
        self._wait = wait
        self._workers: dict[Family, WorkerProcess] = {}
        try:
            for family in host_families():
                self._ask(family, "", test=True)
        except BaseException:
            self.close()
            raise

    def take(self, step: Step, *, test: bool) -> None:
        """See `Loader`."""
        if any(words in step.text for words in _DEADLY):
            binaries.restore(Variant.LEGACY, step.family, step.text, wait=self._wait, test=test)
            return
        refused = self._ask(step.family, step.text, test=test)
        if refused is None:
            return
        kind, _, words = refused.partition(" ")
        if kind == LOCKED:
            raise LockedError(f"{NAME}: the lock {LOCK} is held by {escaped(words)}", 0)
        number = int(kind)
        line = escaped(step.lines[number - 1][:300])
        raise RestoreError(f"{NAME}: {step}: {escaped(words)}: line {number}: {line}", number)

    def close(self) -> None:
        """See `Loader`."""
        for worker in self._workers.values():
            worker.end()
        self._workers = {}

    def _ask(self, family: Family, text: str, *, test: bool) -> str | None:
        try:
            if family not in self._workers:
                self._start(family)
            seconds = self._wait + _SECONDS + _SECONDS_PER_LINE * text.count("\n")
            return self._workers[family].ask(text, check=test, seconds=seconds) if text else None
        except WorkerDiedError as error:
            if worker := self._workers.pop(family, None):
                worker.end()
            if error.missing == "iptc":
                raise HostError(f"{NAME} is not installed: `pip install rulegen[legacy]`, or {_INSTEAD}") from error
            raise HostError(f"{NAME} ({family.value}) {error}") from error

    def _start(self, family: Family) -> None:
        """A worker that understands the host's iptables."""
        worker = self._workers[family] = WorkerProcess("rulegen.iptables.iptc_worker", family.value, str(self._wait))
        refused = worker.ask("", check=True, seconds=_SECONDS)
        if refused is not None:
            self._workers.pop(family).end()
            words = escaped(refused.removeprefix(f"{NOT_UNDERSTOOD} "))
            raise HostError(f"{NAME} does not understand the iptables of this host: {words}; {_INSTEAD}")

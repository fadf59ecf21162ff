"""The agent's log: records come in from any thread, lines go out on standard error, and nothing ever waits for that.

Whatever else this program or a library writes to standard error goes the same way. No line holds control characters,
or more than errors.one_line lets through, whoever its text is from; and of one kind of message only so many are written
in a while, so that an object that changes all the time does not fill a disk.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable

from rulegen.agent.log.lines import LineStream, LineWriter
from rulegen.config import LogFormat
from rulegen.errors import lines, one_line

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_STANDARD_ERROR = 2
_MOST_WAITING = 4000
# What is kept for those who ask later; of lines of about 2,000 characters at the most.
_MOST_KEPT = 500
_LAST_LINES_SECONDS = 0.3
# Of one kind of message, so many in each period (seconds).
_MOST_ALIKE, _PERIOD = 50, 10.0
# As klog counts: from here on it tells what is of use to those who look for a fault only.
_DEBUG_VERBOSITY = 4


class _TextFormatter(logging.Formatter):
    """One line for each record: time, level, message. A traceback follows, line by line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802
        return "\n".join(lines(super().formatException(ei)))


class _JsonFormatter(logging.Formatter):
    """One JSON object for each record, as Kubernetes' own programs write it: `ts` is milliseconds since the epoch."""

    def format(self, record: logging.LogRecord) -> str:
        """The object, in ASCII."""
        entry: dict[str, object] = {
            "ts": round(record.created * 1000, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": one_line(record.getMessage()),
        }
        if record.exc_info:
            entry["err"] = "\n".join(lines(self.formatException(record.exc_info)))
        return json.dumps(entry)


class _Alike(logging.Filter):
    """Lets only so many records of one kind pass in a period; the next one that passes tells how many did not.

    The kind of a record is the text that it is made from, before names and numbers come in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since = 0.0
        self._counts: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it passes. What a person has asked for with level debug always does."""
        if record.levelno <= logging.DEBUG:
            return True
        now, kind = time.monotonic(), str(record.msg)
        if now - self._since >= _PERIOD:
            self._since = now
            self._counts.clear()
        self._counts[kind] += 1
        if self._counts[kind] > _MOST_ALIKE:
            self._untold[kind] += 1
            return False
        if missed := self._untold.pop(kind, 0):
            record.msg, record.args = "%s (and %d more like this)", (record.getMessage(), missed)
        return True


class _Handler(logging.Handler):
    """Formats in the thread that has something to say, as what it speaks of may change."""

    def __init__(self, write: Callable[[str], None], formatter: logging.Formatter) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(formatter)
        self.addFilter(_Alike())

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).split("\n"):
            self._write(line)


class Log:
    """Standard error, from now on until the process ends. To be made once, by the main thread."""

    def __init__(self) -> None:
        """Level info, format text, until `configure` says otherwise."""
        self._writer = LineWriter(_STANDARD_ERROR, _MOST_WAITING, _dropped, _give_up)
        # Its `append` never waits either, and may interrupt itself.
        self._recent: deque[str] = deque(maxlen=_MOST_KEPT)
        sys.stderr = LineStream(lambda line: self._write(one_line(line)))
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change
        self.configure(LogFormat.TEXT, logging.INFO)

    def configure(self, format_: LogFormat, level: int) -> None:
        """From now on so; `level`: of module `logging`."""
        formatter = _JsonFormatter() if format_ is LogFormat.JSON else _TextFormatter()
        root = logging.getLogger()
        root.handlers[:] = [_Handler(self._write, formatter)]
        # What libraries say at level debug is for who works on them.
        root.setLevel(max(level, logging.INFO))
        logging.getLogger("rulegen").setLevel(level)

    def recent(self) -> list[str]:
        """The last lines, the oldest first; may be asked by any thread."""
        return list(self._recent)

    def _write(self, line: str) -> None:
        self._recent.append(line)
        self._writer.write(line)

    def close(self) -> None:
        """Waits a little for what is not written yet; to be called last."""
        self._writer.close(_LAST_LINES_SECONDS)


def level_of_verbosity(verbosity: int) -> int:
    """The level, of module `logging`, that tells about as much as kube-proxy does at `-v`."""
    return logging.DEBUG if verbosity >= _DEBUG_VERBOSITY else logging.INFO


def _give_up(error: OSError) -> None:
    """Standard error takes no more, and there is nobody else to tell."""
    del error


def _dropped(lines: int) -> str:
    return f"{lines} lines of the log were lost: nobody read standard error, or not fast enough"

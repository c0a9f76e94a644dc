"""Log lines for people, for the journal, or for programs, on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

from reflayer.errors import printable

_LONGEST = 1000  # characters of a field
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


def log_to_stderr(form: str, level: str) -> None:
    """Let everything from ``level`` on be logged there; of libraries only warnings.

    Args:
        form: ``json``, or ``text``. A text has no time of its own where the journal takes it
            (``JOURNAL_STREAM`` of systemd.exec(5)), but the level in a way that the journal reads.
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Journal() if _is_journal(sys.stderr.fileno()) else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("reflayer").setLevel(level.upper())


class _Json(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """Time, level, logger, message, ``field=value``; one line but for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname:7} {self.rest(record)}"

    def rest(self, record: logging.LogRecord) -> str:
        """What follows time and level."""
        fields = "".join(f" {name}={_value(value)}" for name, value in _fields(record).items())
        line = f"{record.name}: {printable(record.getMessage())}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Journal(_Text):
    """The same without a time, each line with its level as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        level = _SYSLOG.get(record.levelno, 3)
        return "\n".join(f"<{level}>{line}" for line in self.rest(record).splitlines())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", {})
    assert isinstance(fields, dict)
    return {name: _cut(value) for name, value in fields.items()}


def _cut(value: object) -> object:
    """The value, or its beginning where a client made it too long for a line."""
    text = str(value)
    return value if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _value(value: object) -> str:
    """A value as it is, or quoted where it could be misread."""
    text = str(value)
    is_plain = text and text.isprintable() and not set(text) & set(' "=\\')
    return text if is_plain else json.dumps(text)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_journal(fd: int) -> bool:
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

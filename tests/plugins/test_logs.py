"""A log line is one line, whatever a client has put into its fields."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

_PROGRAM = """
import logging, sys
from reflayer.plugins.service import log_to_stderr
log_to_stderr(sys.argv[1], sys.argv[2])
log = logging.getLogger("reflayer.docker")
log.debug("%s %s", "Get", "ok", extra={"fields": {"id": "abc", "seconds": 0.25}})
log.warning("a\\nb", extra={"fields": {"id": "x y\\n\\x1b[31m=\\u2028", "none": ""}})
logging.getLogger("library").info("not wanted")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("bad")
"""


def _logged(form: str, level: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, form, level],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        check=True,
        text=True,
        env={**os.environ, **environment},
    )
    return done.stderr.split("\n")[:-1]


def test_json_is_one_object_a_line() -> None:
    get, odd, bad = map(json.loads, _logged("json", "debug"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", get.pop("time"))
    assert get == {
        "level": "debug",
        "logger": "reflayer.docker",
        "message": "Get ok",
        "id": "abc",
        "seconds": 0.25,
    }
    assert (odd["message"], odd["id"]) == ("a\nb", "x y\n\x1b[31m=\u2028")
    assert "ZeroDivisionError" in bad["exception"]


def test_text_is_one_line_but_for_a_traceback() -> None:
    get, odd, bad, *trace = _logged("text", "debug")
    assert re.fullmatch(r"\S+Z DEBUG   reflayer.docker: Get ok id=abc seconds=0.25", get)
    assert odd.endswith(r'''WARNING reflayer.docker: a\nb id="x y\n\u001b[31m=\u2028" none=""''')
    assert bad.endswith("ERROR   reflayer.docker: bad")
    assert trace[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(("level", "count"), [("info", 2), ("warning", 2), ("error", 1)])
def test_less_is_logged_when_less_is_wanted(level: str, count: int) -> None:
    assert len(_logged("json", level)) == count


def test_the_journal_gets_levels_and_no_times() -> None:
    reading, writing = os.pipe()
    status = os.fstat(writing)
    stream = f"{status.st_dev}:{status.st_ino}"
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, "text", "debug"],
        stderr=writing,
        check=True,
        env={**os.environ, "JOURNAL_STREAM": stream},
    )
    os.close(writing)
    with open(reading) as file:
        lines = file.read().splitlines()
    assert lines[0] == "<7>reflayer.docker: Get ok id=abc seconds=0.25"
    assert lines[1].startswith("<4>reflayer.docker: a")
    assert all(line.startswith("<3>") for line in lines[2:])


def test_a_redirected_stream_is_not_the_journal() -> None:
    assert _logged("text", "error", JOURNAL_STREAM="1:1")[0][0].isdigit()

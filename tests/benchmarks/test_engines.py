"""What the check of the engines tells is so: what differs, what fails, what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import grpc

from benchmarks.containerd.engine import Engine
from benchmarks.engines import buildkit
from benchmarks.engines.steps import Side, Step, answers
from benchmarks.processes import run
from benchmarks.question import Setting
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from tests.containerd.served import snapshots_stub
from tests.file_systems import require, require_root


def side(name: str, *scripts: str) -> Side:
    """One whose steps print what these scripts print."""
    steps = (Step(script, ["sh", "-ec", script], bytes.decode) for script in scripts)
    return Side(name, tuple(steps))


def test_a_step_is_a_fault_where_it_is_as_on_none_of_the_others() -> None:
    ours = side("ours", "echo 1", "echo 2", "echo 3 >&2; exit 3")
    own = [side("a", "echo 1", "echo 2", "true"), side("b", "echo 1", "echo 0", "true")]
    same, one, none = answers([ours, *own], 2)
    assert (same.unlike, same.is_fault) == ({}, False)
    assert (one.unlike, one.is_fault) == ({"b": ("2\n", "0\n")}, False)
    assert none.unlike == dict.fromkeys(("a", "b"), ("failed with 3: 3", ""))
    assert none.is_fault
    assert [len(times.seconds) for times in same.times] == [2, 2, 2]
    assert [times.missing for times in none.times] == ["fails", None, None]


def test_an_answer_is_taken_from_every_round(tmp_path: Path) -> None:
    changing = f"echo >>{tmp_path}/rounds; grep -c ^ {tmp_path}/rounds"
    (answer,) = answers([side("ours", changing), side("own", "echo 1")], 1)
    assert answer.unlike == {"own": ("2\n", "1\n")}


def test_what_is_not_there_is_left_out_and_told(place: Path, tmp_path: Path) -> None:
    require_root()
    (tmp_path / "tree").mkdir()
    command = [sys.executable, "-m", "benchmarks.engines", f"--place={place}", "--runs=1"]
    done = subprocess.run(
        [*command, f"--tree={tmp_path}/tree", f"--programs={tmp_path}", "--json"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    engines = json.loads(done.stdout)["engines"]
    assert len(engines) == 5
    assert all(one["missing"].startswith("no ") and not one["steps"] for one in engines)
    assert list(place.iterdir()) == []


def test_what_buildkit_has_is_not_garbage_of_the_containerd_beside_it(
    place: Path, tmp_path: Path
) -> None:
    require_root()
    require("containerd", "ctr")
    with ExitStack() as stack:
        ours = {"reflayer": 0}
        engine = Engine(Setting(place, tmp_path), stack, ours=ours, apart={buildkit.APART: 0})
        assert engine.missing is None
        option = "--oci-worker-proxy-snapshotter-path="
        (socket,) = (
            one.removeprefix(option)
            for one in buildkit.runc_worker("reflayer", engine)
            if one.startswith(option)
        )
        channel = stack.enter_context(grpc.insecure_channel(f"unix:{socket}"))
        buildkits = snapshots_stub(channel)
        buildkits.Prepare(messages.PrepareSnapshotRequest(key="buildkit/1/kept"))

        run(engine.snapshots("reflayer", "prepare", "removed"))
        run(engine.snapshots("reflayer", "rm", "removed"))
        run(engine.ctr("leases", "create", "--id", "collect"))
        run(engine.ctr("leases", "rm", "--sync", "collect"))

        buildkits.Stat(messages.StatSnapshotRequest(key="buildkit/1/kept"))
        channel.close()

"""Several processes at work on one store."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from reflayer import Store
from tests.cli.processes import PROGRAM
from tests.images.layouts import Layout
from tests.store.stores import BASE, MORE, MOST, assert_clean, image, layers_in

_TELL_STAGES = """
import sys
import time
from reflayer import Store
stages = set()
Store(sys.argv[1]).create(sys.argv[2], progress=lambda stage, *_: stages.add(stage))
print(*stages)
"""


def _start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*PROGRAM, "--root", str(root), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    ended = []
    for process in processes:
        _, errors = process.communicate(timeout=120)
        ended.append((process.returncode, errors))
    return ended


def test_of_eight_that_want_one_image_one_unpacks_it(base: Path, root: Path) -> None:
    made = image(base / "image", BASE, MORE, MOST)
    command = [sys.executable, "-c", _TELL_STAGES, str(root), made]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sum("unpack" in stages for stages in told) == 1
    assert len(Store(root).containers()) == 8
    assert len(layers_in(root)) == 3 + 8
    assert_clean(root)


def test_of_several_that_want_one_folder_one_takes_it_in(base: Path, root: Path) -> None:
    folder = base / "rootfs"
    folder.mkdir()
    (folder / "file").write_text("content")
    time.sleep(2.1)  # what has changed just before is taken in anew by each
    processes = [_start(root, "create", f"rootfs:{folder}") for _ in range(4)]
    assert _ends(processes) == [(0, "")] * 4
    assert len(Store(root).images()) == 1
    assert len(layers_in(root)) == 5
    assert_clean(root)


def test_of_several_that_want_one_name_one_gets_it(base: Path, root: Path) -> None:
    made = image(base / "image", BASE)
    ended = _ends([_start(root, "create", "--name", "web", made) for _ in range(4)])
    assert sorted(status for status, _ in ended) == [0, 1, 1, 1]
    assert all("web: there is a container of this name" in errors for _, errors in ended if errors)
    assert [one.name for one in Store(root).containers()] == ["web"]
    assert_clean(root)


def test_creating_and_removing_at_once_keep_out_of_each_others_way(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    layout.index(low=layout.image(BASE, MORE), high=layout.image(BASE, MORE, MOST))
    low, high = f"oci:{layout.folder}:low", f"oci:{layout.folder}:high"
    Store(root).create(low, name="first")
    for turn in range(3):
        ended = _ends(
            [
                _start(root, "create", "--name", f"low{turn}", low),
                _start(root, "create", "--name", f"high{turn}", high),
                _start(root, "rm", "first" if turn == 0 else f"low{turn - 1}"),
                _start(root, "rmi", high, low),
            ]
        )
        assert [status for status, _ in ended[:3]] == [0, 0, 0], ended
        assert not any("Traceback" in errors for _, errors in ended)
        if turn:
            Store(root).remove_container(f"high{turn - 1}")
    assert_clean(root)


def test_a_process_that_is_killed_hands_over_to_one_that_waits_for_it(
    base: Path, root: Path
) -> None:
    made = image(base / "image", *[BASE, MORE, MOST] * 5)
    for _ in range(3):
        first, second = _start(root, "create", made), _start(root, "create", made)
        while first.poll() is None and not any((root / "layers/tmp").glob("*")):
            time.sleep(0.001)
        first.kill()
        first.communicate()
        assert second.wait(timeout=120) == 0, second.communicate()
        second.communicate()
        store = Store(root)
        for container in store.containers():
            store.remove_container(container.name)
        store.remove_image(made)
        assert_clean(root)

"""A real image: Debian, made by debootstrap and packed by umoci."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from tests.file_systems import require, require_root
from tests.store.stores import assert_clean, layers_in
from tests.trees import assert_same, facts


def _umoci(*arguments: str) -> None:
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_debian_comes_out_as_umoci_unpacks_it(place_on: Callable[[str], Path]) -> None:
    require_root()
    require("debootstrap", "umoci")
    base = place_on("xfs")
    made = f"{base}/image:debian"
    _umoci("init", "--layout", f"{base}/image")
    _umoci("new", "--image", made)
    _umoci("unpack", "--image", made, f"{base}/bundle")
    bootstrap = ["debootstrap", "--variant=minbase", "stable", f"{base}/bundle/rootfs"]
    subprocess.run(bootstrap, check=True, capture_output=True)
    _umoci("repack", "--image", made, f"{base}/bundle")
    subprocess.run(["rm", "-rf", f"{base}/bundle"], check=True)
    store = Store(base / "store")
    container = store.create(f"oci:{made}")
    _umoci("unpack", "--image", made, f"{base}/unpacked")
    theirs = facts(base / "unpacked/rootfs", atime=False)
    assert len(theirs) > 5000
    assert_same(facts(Path(container.path), atime=False), theirs)
    stages: set[str] = set()
    second = store.create(f"oci:{made}", progress=lambda stage, *_: stages.add(stage))
    assert stages == {"clone"}
    assert_same(facts(Path(second.path), atime=False), theirs)
    assert len(layers_in(base / "store")) == 3
    assert_clean(base / "store")

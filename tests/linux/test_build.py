"""The part in C is compiled without a warning, and what is installed works with it and without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.file_systems import require, require_native

PROJECT = Path(__file__).parents[2]
C_FILES = [PROJECT / "src/reflayer/linux" / name for name in ("_names.c", "clone.c", "tar.c")]
STRICT = ("-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


UNDER_SANITIZERS = (
    "tests/linux/test_names.py",
    "tests/copy/test_hard_cases.py",
    "tests/copy/test_remove.py",
    "tests/extents/test_trees.py",
    "tests/archive/test_files.py",
    "tests/archive/test_headers.py",
)


def _compile(to: Path, compiler: str, *options: str) -> None:
    headers = Path(sysconfig.get_config_var("INCLUDEPY"))
    # Debian has pyconfig.h beside the folder, where musl-gcc does not look by itself.
    folders = f"-isystem{headers}", f"-idirafter{headers.parent}"
    subprocess.run([compiler, *STRICT, *options, *folders, *C_FILES, "-o", to], check=True)


@pytest.mark.parametrize(
    ("compiler", "options"),
    [
        ("gcc", ("-O2", "-std=c11")),
        ("gcc", ("-O3", "-std=gnu17", "-Wpedantic", "-Wshadow", "-Wconversion")),
        ("musl-gcc", ("-O2",)),
    ],
)
def test_it_compiles_without_a_warning(
    tmp_path: Path, compiler: str, options: tuple[str, ...]
) -> None:
    require_native()
    require(compiler)
    _compile(tmp_path / "names.so", compiler, *options)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_hard_cases_are_kept_under_the_sanitizers(tmp_path: Path) -> None:
    require_native()
    require("gcc")
    shutil.copytree(
        PROJECT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info")
    )
    part = tmp_path / "src/reflayer/linux/_names.abi3.so"
    _compile(part, "gcc", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover")
    library = ["gcc", "-print-file-name=libasan.so"]
    environment = os.environ | {
        "LD_PRELOAD": subprocess.run(
            library, check=True, capture_output=True, text=True
        ).stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tmp_path / "src"),
        "REFLAYER_PURE": "0",
    }
    told = "import reflayer.linux._names as names; print(names.__file__)"
    used = subprocess.run(
        [sys.executable, "-c", told], check=True, env=environment, capture_output=True, text=True
    )
    assert used.stdout == f"{part}\n"
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path}/tests"]
    options += ["-k", "not btrfs and not ext4"]  # XFS and tmpfs take every way through it
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *UNDER_SANITIZERS],
        cwd=PROJECT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "no-such-compiler"])
def test_what_is_installed_works_with_a_compiler_and_without(tmp_path: Path, compiler: str) -> None:
    require_native()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    make = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, tmp_path], check=True, cwd=PROJECT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    wheels = tmp_path / "wheels"
    subprocess.run(
        [*pip, "wheel", *offline, "--no-cache-dir", f"--wheel-dir={wheels}", sdist],
        check=True,
        env=os.environ | {"CC": compiler},
    )
    (wheel,) = wheels.iterdir()
    assert "-cp311-abi3-" in wheel.name
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run([*pip, f"--python={venv}/bin/python", "install", *offline, wheel], check=True)

    (tmp_path / "src").mkdir()
    (tmp_path / "src/file").write_text("content")
    copy = [f"{venv}/bin/reflayer", "copy", f"{tmp_path}/src", f"{tmp_path}/dst"]
    subprocess.run(copy, check=True, env=os.environ | {"REFLAYER_PURE": "0"})
    assert (tmp_path / "dst/file").read_text() == "content"
    (package,) = venv.glob("lib/python3*/site-packages/reflayer/linux")
    parts = {path.name for path in package.iterdir() if path.suffix in (".so", ".c", ".pyi")}
    assert parts == {"_names.pyi"} | ({"_names.abi3.so"} if compiler == "gcc" else set())

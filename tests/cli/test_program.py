"""The program's own words: options, commands, help, and complaints in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reflayer.cli.commands import COMMANDS, read_plainly
from reflayer.cli.program import parser
from tests.cli.processes import PROGRAM, reflayer
from tests.file_systems import require, require_root
from tests.store.stores import BASE, image


@pytest.mark.parametrize(
    ("line", "usage", "complaint"),
    [
        ("create --nmae web alpine", "create", "unrecognized option --nmae: did you mean --name?"),
        ("create --pul1=never alpine", "create", "unrecognized option --pul1: did you mean --pull"),
        ("create -x alpine", "create", "unrecognized option -x"),
        ("create --pull nevr alpine", "create", "argument --pull: invalid choice: 'nevr'"),
        ("create one two", "create", "unrecognized arguments: two"),
        ("rm", "rm", "the following arguments are required: NAME"),
        ("crate alpine", "", "crate is no command: did you mean create?"),
        ("frobnicate", "", "frobnicate is no command: reflayer --help lists them"),
        ("restore web", "", "restore is no command: did you mean rollback?"),
        ("--rooot /x ps", "", "unrecognized option --rooot: did you mean --root?"),
        ("--root /x --versoin ps", "", "unrecognized option --versoin: did you mean --version?"),
        ("ps --root", "ps", "argument --root: expected one argument"),
    ],
)
def test_wrong_usage_is_told_with_the_usage_of_the_command(
    line: str, usage: str, complaint: str
) -> None:
    done = reflayer(*line.split())
    program = f"reflayer {usage}".strip()
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert first.startswith(f"usage: {program} [OPTION...]")
    assert second.startswith(f"{program}: error: {complaint}")


@pytest.mark.parametrize(
    ("line", "is_plain"),
    [
        ("path web", True),
        ("--root ~/store --quiet path web", True),
        ("ps -q --root /x", True),
        ("ps --quiet", True),
        ("rm one two --wait", True),
        ("rm --recycle one", True),
        ("create --name web --size 10G --pull never alpine --json", True),
        ("create --platform linux/arm64 --ownership record oci:/x", True),
        ("copy SRC ~/DST", True),
        ("copy --method range --workers 3 SRC DST", True),
        ("diff web", True),
        ("diff web web@1", True),
        ("df", True),
        ("df one two", True),
        ("run --rm -t alpine ls -l --rm", True),
        ("run alpine", True),
        ("exec -u root web sh -c true", True),
        ("unshare", True),
        ("unshare ls --help", True),
        ("commit web team/x --compression zstd", True),
        ("bench", True),
        ("fork web --count 3", True),
        ("warm", True),
        ("serve docker containerd --spares 3", True),
        ("save x oci:/y", True),
        ("create --name=web --size=10G alpine", True),
        ("create --nam web alpine", False),
        ("run -it alpine sh", False),
        ("run -e A=1 -e B=2 alpine", False),
        ("run --tls-verify=false alpine", False),
        ("path -- web", False),
        ("rm -- --odd", False),
        ("--root=/x --quiet ps", True),
        ("run alpine -- ls", False),
    ],
)
def test_a_plain_line_is_read_as_argparse_reads_it(
    monkeypatch: pytest.MonkeyPatch, line: str, is_plain: bool
) -> None:
    monkeypatch.setattr("sys.argv", ["reflayer", *line.split()])
    plain = read_plainly(line.split())
    assert (plain is not None) == is_plain
    whole = vars(parser().parse_args())
    assert plain is None or vars(plain) == whole


def test_what_follows_two_dashes_is_no_option() -> None:
    assert "--pul1 is no" not in reflayer("create", "--", "--pul1").stderr
    assert reflayer("rm", "--", "--pul1").returncode == 1


@pytest.mark.parametrize("line", ["--root ROOT ps --json", "ps --root ROOT --json"])
def test_the_root_may_stand_before_and_after_the_command(tmp_path: Path, line: str) -> None:
    (tmp_path / "reflayer.db").write_text("no database")
    done = reflayer(*line.replace("ROOT", str(tmp_path)).split())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{tmp_path}/reflayer.db" in done.stderr


@pytest.mark.parametrize(
    "line",
    ["--root= ps", "ps --root=", "copy= x", "export web -o=", "create alpine --authfile="],
)
def test_an_empty_path_is_wrong_usage(line: str) -> None:
    words = [part for word in line.split() for part in word.split("=")]
    done = reflayer(*words)
    assert (done.returncode, "the path is empty" in done.stderr) == (2, True), words


def test_alone_it_shows_what_people_start_with() -> None:
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    shown = re.findall(r"^  reflayer (\w+)", done.stderr, re.MULTILINE)
    assert len(shown) == 6
    assert set(shown) <= COMMANDS.keys()
    assert max(map(len, done.stderr.splitlines())) <= 80
    assert "reflayer --help" in done.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal(command: str) -> None:
    told = reflayer(*command.split(), "--help").stdout
    assert told.startswith(f"usage: reflayer {command}".rstrip())
    assert max(map(len, told.splitlines())) <= 80
    assert len(told.splitlines()) > 6


@pytest.mark.parametrize(
    "line", ["--help", "--version", "path web", "ps", "images", "checkpoints web"]
)
def test_what_only_looks_imports_little(tmp_path: Path, line: str) -> None:
    """Each of these would take a tenth of the command's time or more."""
    root = str(tmp_path / "root")
    reflayer("--root", root, "create", "--name", "web", image(tmp_path / "image", BASE))
    code = (
        "import os, sys; before = {*sys.modules};"
        "os._exit = lambda _: print(*{*sys.modules} - before);"
        "from reflayer.cli import main; main()"
    )
    words = line.split() if line[0] == "-" else ["--root", root, *line.split()]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert "reflayer.cli" in imported
    heavy = {"argparse", "re", "contextlib", "threading", "datetime", "json"}
    assert imported & {*heavy, "reflayer.driver", "reflayer.store.collect"} == set()


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_complaint_is_one_line_that_gives_no_orders_to_a_terminal(size: int) -> None:
    name = "\x1b[31mred\nhat\u202e" + "x" * size
    for command in (["path", name], ["create", f"rootfs:/{name}"], [name], ["ps", name]):
        done = subprocess.run([*PROGRAM, *command], capture_output=True, text=True, check=False)
        *usage, line = done.stderr.splitlines()
        assert len(usage) == (done.returncode == 2)
        assert line.isprintable()
        assert "\\x1b[31mred\\nhat\\u202e" in line
        assert len(line) < 600


@pytest.mark.parametrize(("line", "status"), [("path web", 1), ("crate", 2)])
def test_who_cannot_be_told_a_complaint_gets_the_status(
    tmp_path: Path, line: str, status: int
) -> None:
    full = ["sh", "-c", '"$@" 2>/dev/full', "sh", *PROGRAM, "--root", str(tmp_path)]
    assert subprocess.run([*full, *line.split()], check=False).returncode == status


def _with_home(
    folder: Path, variables: dict[str, str], *arguments: str, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program in ``folder`` with no variables but these that name a place."""
    names = ("HOME", "REFLAYER_ROOT", "XDG_DATA_HOME")
    others = {name: value for name, value in os.environ.items() if name not in names}
    # The user may read all, since the interpreter of the tests is perhaps in root's home.
    reads = "-all,+dac_read_search"
    become = ["setpriv", f"--reuid={user}", "--clear-groups", f"--inh-caps={reads}"]
    become += [f"--ambient-caps={reads}", f"--bounding-set={reads}"]
    return subprocess.run(
        [*(become if user else ()), *PROGRAM, *arguments],
        cwd=folder,
        env={**others, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("variables", [{}, {"HOME": ""}, {"HOME": "relative"}, {"HOME": "~"}])
@pytest.mark.parametrize("command", ["ps", "create rootfs:/etc", "doctor"])
def test_a_user_without_a_home_is_told_how_to_name_a_store(
    tmp_path: Path, variables: dict[str, str], command: str
) -> None:
    require_root()
    require("setpriv")
    tmp_path.chmod(0o777)
    unknown = 54321  # no entry in passwd(5)
    for more in ({}, {"XDG_DATA_HOME": "relative"}, {"XDG_DATA_HOME": "~/data"}):
        done = _with_home(tmp_path, {**variables, **more}, *command.split(), user=unknown)
        assert (done.returncode, done.stderr) == (
            1,
            "reflayer: user 54321 has no home for a store: name its folder by --root or "
            "REFLAYER_ROOT, or set HOME\n",
        )
        assert os.listdir(tmp_path) == []
    home = {**variables, "REFLAYER_ROOT": str(tmp_path / "store")}
    assert _with_home(tmp_path, home, "ps", user=unknown).returncode == 0


def test_a_home_that_cannot_be_written_is_told_with_the_way_on(tmp_path: Path) -> None:
    require_root()
    require("setpriv")
    done = _with_home(tmp_path, {"HOME": "/"}, "create", "rootfs:/etc", user=54321)
    assert done.stderr == (
        "reflayer: /.local: mkdir: Permission denied: "
        "become who may, by sudo say, or name another folder for the store by --root or "
        "REFLAYER_ROOT\n"
    )


@pytest.mark.parametrize(
    "command", ["create rootfs:{}/tree", "rm web", "tag a b", "rmi a", "warm a"]
)
def test_who_may_not_change_a_store_is_told_the_way_on(tmp_path: Path, command: str) -> None:
    require_root()
    require("setpriv")
    root, tree = tmp_path / "root", tmp_path / "tree"
    tree.mkdir()
    os.chown(tree, 54321, 54321)
    reflayer("--root", str(root), "create", "--name", "web", f"rootfs:{tree}", "--ownership=record")
    reflayer("--root", str(root), "tag", f"rootfs:{tree}", "a")
    words = command.format(tmp_path).split()
    done = _with_home(tmp_path, {"HOME": "/", "REFLAYER_ROOT": str(root)}, *words, user=54321)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"reflayer: {root}: open: this user may not write there: become who may, by sudo say, or "
        "name another folder for the store by --root or REFLAYER_ROOT\n"
    )


@pytest.mark.parametrize("words", [("--root=~/here", "ps"), ("ps", "--root", "~/here")])
def test_a_tilde_that_no_shell_has_replaced_is_the_home(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    (home / "here/reflayer.db").mkdir(parents=True)
    told = _with_home(tmp_path, {"HOME": str(home)}, *words).stderr
    assert told.startswith(f"reflayer: {home}/here/reflayer.db: ")
    variables = {"HOME": str(home), "REFLAYER_ROOT": "~/here"}
    assert _with_home(tmp_path, variables, "ps").stderr == told
    done = _with_home(tmp_path, variables, "--root", "store", "create", "oci:~/image")
    assert done.stderr.startswith(f"reflayer: {home}/image")
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "text",
    [
        "containers-storage:alpine",
        "containers-storage:[overlay@/var/lib]alpine",
        "docker-daemon:alpine:3",
        "dir:image",
        "dir:/srv/image",
        "sif:image.sif",
        "ostree:image@/srv/ostree",
        "docker-arhive:/srv/image.tar",
        "tarball:/srv/image.tar",
        "docker:/alpine",
    ],
)
@pytest.mark.parametrize("command", ["create", "pull", "push web", "save web", "commit web", "rmi"])
def test_a_transport_that_is_not_known_is_told_with_those_that_are(
    tmp_path: Path, command: str, text: str
) -> None:
    done = reflayer("--root", str(tmp_path), *command.split(), text)
    transport = text.partition(":")[0]
    assert done.returncode == 1
    assert done.stderr.startswith(f"reflayer: the transport {transport}: is not known: ")
    assert "oci:" in done.stderr
    assert done.stderr.count("\n") == 1


def test_inspect_shows_what_docker_shows_in_its_shape(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    store = ("--root", str(tmp_path / "store"))
    ignore = ("--ownership", "ignore")
    reflayer(*store, "create", *ignore, "--name", "web", f"rootfs:{tmp_path}/tree")
    settings = ("--entrypoint", "nginx -g", "--cmd", "off;", "--env", "A=b", "--label", "c=d")
    words = ("-m", "what for", "-a", "who")
    image_id = reflayer(*store, "commit", *ignore, "web", "app:1", *settings, *words).stdout.strip()
    assert reflayer(*store, "tag", "app:1", "localhost:5000/app").returncode == 0
    path = reflayer(*store, "create", *ignore, "--name", "two", "app:1").stdout.strip()
    done = reflayer(*store, "inspect", "app:1", "two", "tow")
    assert (done.returncode, done.stderr) == (
        1,
        "reflayer: tow: no such container or image: did you mean two?\n",
    )
    image, container = json.loads(done.stdout)
    assert image["Id"] == container["Image"] == image_id
    assert image["RepoTags"] == ["app:1", "localhost:5000/app:latest"]
    assert (image["Comment"], image["Author"], image["Os"]) == ("what for", "who", "linux")
    assert len(image["RootFS"]["Layers"]) == 1
    ways = {
        "Entrypoint": ["nginx", "-g"],
        "Cmd": ["off;"],
        "Env": ["A=b"],
        "Labels": {"c": "d"},
    }
    assert image["Config"] == ways
    assert container["Config"] == {**ways, "Image": "app:1"}
    assert (container["Path"], container["Args"]) == ("nginx", ["-g", "off;"])
    assert (container["Name"], container["GraphDriver"]["Data"]) == ("/two", {"MergedDir": path})


def test_a_groups_words_are_indented_in_all_their_lines() -> None:
    told = reflayer("pull", "--help").stdout
    words = told.partition("\nregistries:\n")[2].partition("\n\n")[0].splitlines()
    assert len(words) > 1
    assert all(line.startswith("  ") and line[2] != " " for line in words)

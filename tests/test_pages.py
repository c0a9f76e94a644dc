"""README and the pages name only what is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflayer.cli import manual
from reflayer.cli.commands import COMMANDS
from reflayer.cli.program import parser

PROJECT = Path(__file__).parents[1]
OF_THE_CODE = [PROJECT / "CONTRIBUTING.md", PROJECT / "docs/architecture.md"]
"""The pages that name files and functions of the code."""
PAGES = sorted(
    {*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")}
    | {PROJECT / "benchmarks/README.md", PROJECT / "deploy/kubernetes/README.md", *OF_THE_CODE}
)
TO_BEGIN_WITH = ["ci", "tests", "sandboxes", "hpc", "kubernetes", "docker", "containerd", "library"]
"""The pages for those who come to use it."""

_LINK = re.compile(r"\]\(([^)#:]+)[)#]")
_PART = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_PATH = re.compile(r"`((?:docs|packaging|deploy|scripts|src|tests)/[\w./-]+)")
_FILE = re.compile(r"[\w./-]+\.(?:py|c|md|toml)")
_NAME = re.compile(r"[a-z]+(?:_[a-z]+)+|(?:[A-Z][a-z]+)+|[A-Z]{5,}")
_COMMAND = re.compile(r"^ *(?:\$ )?reflayer ([a-z][a-z-]*)", re.MULTILINE)
_LINE = re.compile(r"^ *(?:\$ )?(reflayer .*)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_BENCHMARK = re.compile(r"-m (benchmarks\.[\w.]+)")
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Each page in turn."""
    assert isinstance(request.param, Path)
    return request.param


def blocks(page: Path, language: str) -> Iterator[str]:
    """The page's blocks of code in ``language``, empty for commands."""
    for said, block in _BLOCK.findall(page.read_text()):
        if said == language:
            yield block


def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    led_to = [page.parent / link for link in _LINK.findall(text)]
    led_to += [PROJECT / path for path in _PATH.findall(text)]
    assert [path for path in led_to if not path.exists()] == []


def test_every_link_to_a_part_of_a_page_leads_to_its_heading(page: Path) -> None:
    for name, part in _PART.findall(page.read_text()):
        headings = _HEADING.findall((page.parent / name if name else page).read_text())
        # As the hosts of repositories name them.
        known = [re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings]
        assert part in known


@pytest.mark.parametrize("page", OF_THE_CODE, ids=lambda page: page.name)
def test_every_file_and_name_of_the_code_is_there(page: Path) -> None:
    said = set(_INLINE.findall(_BLOCK.sub("", page.read_text())))
    places = (PROJECT, PROJECT / "src/reflayer")
    tops = [one.name for place in places for one in place.iterdir()]
    paths = [one for one in said if _FILE.fullmatch(one) or one.split("/")[0] in tops]
    assert len(paths) > 15
    assert [one for one in paths if not any((place / one).exists() for place in places)] == []
    code = "\n".join(one.read_text() for one in places[1].rglob("*.[cp]*") if one.suffix != ".pyc")
    names = [one for one in said if _NAME.fullmatch(one)]
    assert [one for one in names if not re.search(rf"\b{one}\b", code)] == []


@pytest.mark.parametrize("name", TO_BEGIN_WITH)
def test_a_page_to_begin_with_is_read_in_two_minutes(name: str) -> None:
    text = re.sub(r"<!-- .* -->\n+", "", (PROJECT / "docs" / f"{name}.md").read_text())
    assert len(text.splitlines()) <= 40
    assert len(text.split()) <= 450


def test_every_command_is_one(page: Path) -> None:
    code = "\n".join([*blocks(page, ""), *_INLINE.findall(page.read_text())])
    assert set(_COMMAND.findall(code)) <= COMMANDS.keys()


def test_every_line_of_a_session_is_one_that_the_program_takes(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.name in ("architecture.md", "cli.md"):
        return  # lines of usage
    for line in _LINE.findall("\n".join(blocks(page, "")).replace("\\\n", " ")):
        plain = re.sub(r"\$\w+", "/tmp", re.sub(r'"?\$\([^)]*\)[^" ]*"?', "DIR", line))
        words = shlex.split(plain, comments=True)
        end = [at for at, word in enumerate(words) if re.fullmatch(r"[|&;<>]+|[;)]", word)]
        words = words[: end[0]] if end else words
        if "..." in line or "[" in line or words[1:] == ["--help"]:
            continue  # a line of usage
        monkeypatch.setattr("sys.argv", [word.rstrip(";") for word in words])
        try:
            parser().parse_args()
        except SystemExit:
            assert "is not a folder" in capsys.readouterr().err, line  # there, it is one


def test_every_example_of_a_command_is_one_that_the_program_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    for line in re.findall("^- `(reflayer [^`|]+)`", manual.page(), re.MULTILINE):
        monkeypatch.setattr("sys.argv", shlex.split(line))
        try:
            parser().parse_args()
        except SystemExit:
            pytest.fail(line)


def test_every_benchmark_is_there(page: Path) -> None:
    named = _BENCHMARK.findall(page.read_text())
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_every_example_imports_what_there_is(page: Path) -> None:
    for block in blocks(page, "python"):
        imports: list[ast.stmt] = [
            one for one in ast.parse(block).body if isinstance(one, ast.Import | ast.ImportFrom)
        ]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


def test_readme_tells_of_every_command() -> None:
    text = (PROJECT / "README.md").read_text()
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)] == []


def test_the_page_of_commands_is_what_the_parser_has() -> None:
    again = "run: .venv/bin/python -m reflayer.cli.manual docs/cli.md"
    assert (PROJECT / "docs/cli.md").read_text() == manual.page(), again

"""``reflayer copy``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from reflayer.cli.progress import bars, size_text
from reflayer.copy import METHODS, CopyReport, copy_tree


@click.command()
@click.argument("src", type=click.Path(path_type=bytes))
@click.argument("dst", type=click.Path(path_type=bytes))
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    show_default=True,
    help="How content is copied; auto takes the best that works here.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that work on it. By default, the processors that may be used.",
)
@click.option(
    "--ownership",
    type=click.Choice(["keep", "ignore"]),
    default="keep",
    show_default=True,
    help="ignore: leave out owners, devices and attributes that only root may set.",
)
@click.option("--cross-mounts", is_flag=True, help="Copy what is mounted inside SRC, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def copy(
    src: bytes,
    dst: bytes,
    method: str,
    workers: int | None,
    ownership: str,
    cross_mounts: bool,
    as_json: bool,
) -> None:
    """Make DST the same tree as the folder SRC.

    DST is absent or an empty folder. Everything is kept: content (shared where the file system
    can), owners, modes, times, extended attributes, ACLs, hard links, holes, devices. If it fails,
    DST is left as it was.
    """
    with bars() as report_to:
        report = copy_tree(
            src,
            dst,
            method=method,
            workers=workers,
            ownership=ownership,
            cross_mounts=cross_mounts,
            progress=report_to and (lambda entries, _: report_to("clone", entries, None)),
        )
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        click.echo(_summary(report), err=True)


def _summary(report: CopyReport) -> str:
    """One line: entries, bytes, method, time, and what was left out."""
    entries, size = sum(report.entries.values()), sum(report.bytes.values())
    line = f"{entries:,} entries, {size_text(size)} by {report.method}, {report.seconds:.2f} s"
    if report.skipped:
        line += "; left out: " + ", ".join(
            f"{count:,} {kind}" + ("s" if count > 1 else "")
            for kind, count in report.skipped.items()
        )
    return line

"""The chart of ``reflayer bench``: an SVG file with a bar for each method."""

from __future__ import annotations

from html import escape

from reflayer.bench.methods import BASELINE, compared_with, fastest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reflayer.bench.runs import Times

_WIDTH, _MARGIN = 860, 28
_LEFT, _RIGHT = 250, 640  # where bars begin, and where the longest ends
_TOP, _ROW, _BAR = 96, 46, 22
_TICKS = 5  # at the most
_STYLE = """
  text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif; fill: #1f2933 }
  .title { font-size: 19px; font-weight: 600 }
  .small { font-size: 12px; fill: #68737f }
  .name { font-size: 14px; font-weight: 600 }
  .value { font-size: 13px }
  .grid { stroke: #e4e7eb; stroke-width: 1 }
  .axis { stroke: #9aa5b1; stroke-width: 1 }
  .best { fill: #0b7a75 }
  .ours { fill: #6fb8b3 }
  .other { fill: #b8c1cb }
"""


def chart(measured: Sequence[Times], title: str, caption: str) -> str:
    """The text of an SVG file: medians as horizontal bars, in the order given."""
    baseline = compared_with(measured)
    best = fastest(measured)
    longest = max((times.median for times in measured if times.missing is None), default=1.0)
    bottom = _TOP + _ROW * len(measured)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom + 62}" '
        f'viewBox="0 0 {_WIDTH} {bottom + 62}" role="img">',
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(_MARGIN, 42, "title", title),
        _text(_MARGIN, 66, "small", "median time, shorter is better"),
        *_grid(longest, bottom),
    ]
    for number, times in enumerate(measured):
        kind = "other" if times.name == BASELINE else "best" if times is best else "ours"
        parts += _row(times, baseline, kind, _TOP + _ROW * number, longest)
    axis = f'<line class="axis" x1="{_LEFT}" y1="{_TOP - 6}" x2="{_LEFT}" y2="{bottom}"/>'
    parts += [axis, _text(_MARGIN, bottom + 46, "small", caption), "</svg>\n"]
    return "\n".join(parts)


def _row(times: Times, baseline: Times | None, kind: str, top: int, longest: float) -> list[str]:
    middle = top + _ROW // 2
    parts = [
        _text(_MARGIN, middle - 3, "name", times.name),
        _text(_MARGIN, middle + 13, "small", times.about),
    ]
    if times.missing is not None or baseline is None:
        reason = f"does not work here: {times.missing}"
        return [*parts, _text(_LEFT + 10, middle + 4, "small", reason)]
    width = max(2.0, (_RIGHT - _LEFT) * times.median / longest)
    value = time_text(times.median)
    if times is not baseline:
        value += f", {baseline.ratio_of(times)[0]:.2f} x {baseline.name}"
    return [
        *parts,
        f'<rect class="{kind}" x="{_LEFT}" y="{middle - _BAR // 2}" width="{width:.1f}" '
        f'height="{_BAR}" rx="3"/>',
        _text(_LEFT + width + 10, middle + 5, "value", value),
    ]


def _grid(longest: float, bottom: int) -> list[str]:
    """Lines at round times, each with its time below."""
    step = _round_step(longest)
    parts = []
    for number in range(1, int(longest / step) + 1):
        x = _LEFT + (_RIGHT - _LEFT) * number * step / longest
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>'
        )
        parts.append(_text(x, bottom + 18, "small", time_text(number * step), anchor="middle"))
    return parts


def _round_step(longest: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that needs few lines, in seconds."""
    steps = (factor * 10.0**power for power in range(-4, 6) for factor in (1, 2, 5))
    return next(step for step in steps if longest / step <= _TICKS)


def _text(x: float, y: float, kind: str, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def time_text(seconds: float) -> str:
    """A time for people: milliseconds below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"

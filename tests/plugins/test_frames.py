"""Where another frame may stand among those of an HTTP/2 connection."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as some

from reflayer.plugins.frames import Frames, goaway

DATA, HEADERS, SETTINGS, PUSH_PROMISE, PING, CONTINUATION = 0, 1, 4, 5, 6, 9
END_STREAM, END_HEADERS = 0x1, 0x4


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + bytes(4) + payload


whole = some.one_of(
    some.builds(
        frame,
        some.sampled_from([DATA, SETTINGS, PING, 0x42]),
        some.integers(0, 255),
        some.binary(max_size=40),
    ),
    some.builds(
        frame,
        some.sampled_from([HEADERS, PUSH_PROMISE]),
        some.just(END_HEADERS),
        some.binary(max_size=40),
    ),
    some.builds(
        lambda first, between, last: (
            frame(HEADERS, END_STREAM, first)
            + b"".join(frame(CONTINUATION, 0, one) for one in between)
            + frame(CONTINUATION, END_HEADERS, last)
        ),
        some.binary(max_size=20),
        some.lists(some.binary(max_size=20), max_size=2),
        some.binary(max_size=20),
    ),
)


@given(some.lists(whole, min_size=1, max_size=6), some.data())
def test_a_gap_is_where_one_frame_has_ended_whatever_the_pieces_are(
    frames: list[bytes], draw: some.DataObject
) -> None:
    ends = {sum(map(len, frames[: n + 1])) for n in range(len(frames))}
    sent = b"".join(frames)
    cuts = draw.draw(some.lists(some.integers(0, len(sent)), max_size=8))
    places = sorted({0, *cuts, len(sent)})
    followed = Frames()
    for start, end in pairwise(places):
        found = followed.follow(sent[start:end])
        here = [place - start for place in ends if start < place <= end]
        assert found == max(here, default=None)
        assert followed.is_between == (end in ends)


def test_nothing_may_come_before_the_first_frame() -> None:
    assert not Frames().is_between


def test_the_good_bye_names_no_error_and_takes_no_stream_back() -> None:
    header, payload = goaway()[:9], goaway()[9:]
    assert header == bytes((0, 0, 8, 7, 0, 0, 0, 0, 0))
    assert payload == (2**31 - 1).to_bytes(4) + (0).to_bytes(4)

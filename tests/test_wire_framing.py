"""protocol/encoding.md section 8: frames come out whole however the stream was cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.wire.framing import FrameReader, OversizeError, frame

BOUND = 100


@given(contents=st.lists(st.binary(max_size=BOUND)), cuts=st.lists(st.integers(1, 50)))
def test_frames_come_out_whole_whatever_the_cuts(contents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(content, BOUND) for content in contents)
    reader = FrameReader(BOUND)
    found: list[bytes] = []
    for size in [*cuts, len(stream)]:
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == contents
    assert reader.pending_bytes == 0


def test_a_length_above_the_bound_is_refused_when_its_four_bytes_are_there() -> None:
    reader = FrameReader(BOUND)
    assert reader.feed(b"\x00\x00\x00") == []
    with pytest.raises(OversizeError):
        reader.feed(b"\x65")
    with pytest.raises(OversizeError):
        frame(bytes(BOUND + 1), BOUND)


def test_what_is_kept_is_one_unfinished_frame() -> None:
    reader = FrameReader(BOUND)
    assert reader.feed(frame(b"whole", BOUND) + b"\x00\x00\x00\x05par") == [b"whole"]
    assert reader.pending_bytes == 7
    assert reader.feed(b"ts") == [b"parts"]

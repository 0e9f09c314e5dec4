"""Messages as bytes: what is encoded is decoded, and anything else is refused."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.layout import FRAME_CHECKSUM_BYTES, PAGE_BYTES, PAGES_FRAME_BYTES, max_stored_bytes
from streams.errors import StreamCorrupt
from streams.messages import (
    MAX_CONTENT_BYTES,
    MAX_FRAMES_BYTES,
    MAX_NUMBER,
    MAX_ROUND,
    PART_BYTES,
    Begin,
    File,
    Frames,
    Hello,
    Holds,
    Message,
    Part,
    Remove,
    decode,
    head_of,
    holds_and_number,
    place_of_frames,
    split_frames,
    split_manifest,
)
from streams.transport import MAX_MESSAGE_BYTES
from tests.stream.recorded import chain_of, recorded

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
FRAME = st.binary(min_size=FRAME_CHECKSUM_BYTES + 1, max_size=64)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        U32,
        U32,
        st.binary(min_size=16, max_size=16),
        st.integers(0, MAX_ROUND - 1),
        st.binary(min_size=32, max_size=32),
    ),
    st.builds(Begin, st.integers(1, MAX_ROUND)),
    st.builds(File, U32, st.sampled_from(Holds), st.integers(0, MAX_NUMBER)),
    st.builds(Remove, U32),
    st.lists(st.tuples(FRAME, st.integers(1, PAGES_FRAME_BYTES)), min_size=1, max_size=30).flatmap(
        lambda pairs: st.builds(Frames, U32, U64, st.just([p[0] for p in pairs]), st.just([p[1] for p in pairs]))
    ),
    st.binary(min_size=1, max_size=1000).map(lambda content: Part(len(content), 0, content)),
)


def as_bytes(message: Message) -> bytes:
    return b"".join(message.encode())


def plain(message: Message) -> Message:
    """With lists and bytes in the place of views."""
    if isinstance(message, Frames):
        return replace(message, frames=[bytes(f) for f in message.frames], contents_bytes=list(message.contents_bytes))
    return replace(message, content=bytes(message.content)) if isinstance(message, Part) else message


@given(MESSAGES)
def test_a_message_comes_back_from_its_bytes(message: Message) -> None:
    assert plain(decode(as_bytes(message))) == message


@given(MESSAGES, st.data())
def test_a_message_that_is_cut_off_or_too_long_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = as_bytes(message)
    for wrong in (encoded[: data.draw(st.integers(0, len(encoded) - 1))], encoded + b"\0"):
        with pytest.raises(StreamCorrupt):
            decode(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with suppress(StreamCorrupt):
        assert as_bytes(decode(data)) == data


@given(st.lists(st.tuples(st.integers(5, 300_000), st.integers(1, PAGES_FRAME_BYTES)), max_size=120), U32)
def test_frames_are_split_within_the_limits(sizes: list[tuple[int, int]], offset_bytes: int) -> None:
    frames = [bytes(stored) for stored, _ in sizes if stored <= max_stored_bytes(PAGES_FRAME_BYTES)]
    contents = [content for stored, content in sizes if stored <= max_stored_bytes(PAGES_FRAME_BYTES)]
    messages = split_frames(5, offset_bytes, frames, contents)
    assert [frame for message in messages for frame in message.frames] == frames
    assert [content for message in messages for content in message.contents_bytes] == contents
    for message in messages:
        assert message.offset_bytes == offset_bytes
        assert sum(message.contents_bytes) <= MAX_CONTENT_BYTES
        assert len(as_bytes(message)) <= MAX_MESSAGE_BYTES
        decode(as_bytes(message))
        offset_bytes += message.stored_bytes


def test_frames_are_refused_whose_content_is_out_of_proportion() -> None:
    n_frames = MAX_CONTENT_BYTES // PAGES_FRAME_BYTES + 1
    with pytest.raises(StreamCorrupt, match="do not add up"):
        decode(as_bytes(Frames(0, 0, [bytes(20)] * n_frames, [PAGES_FRAME_BYTES] * n_frames)))


@pytest.mark.parametrize(
    ("frame_bytes", "content_bytes"),
    [(FRAME_CHECKSUM_BYTES, 1), (20, 0), (max_stored_bytes(PAGES_FRAME_BYTES) + 1, PAGE_BYTES)],
)
def test_frames_of_impossible_sizes_are_refused(frame_bytes: int, content_bytes: int) -> None:
    with pytest.raises(StreamCorrupt, match="impossible size"):
        decode(as_bytes(Frames(0, 0, [bytes(frame_bytes)], [content_bytes])))


@pytest.mark.parametrize("size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_a_manifest_is_split_and_put_together(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    parts = [decode(as_bytes(part)) for part in split_manifest(data)]
    assert b"".join(bytes(part.content) for part in parts if isinstance(part, Part)) == data


@pytest.mark.parametrize(
    "part",
    [
        Part(10, 1, bytes(9)),
        Part(10, 0, bytes(9)),
        Part(0, 0, b""),
        Part((64 << 20) + 1, 0, bytes(PART_BYTES)),
        Part(10, PART_BYTES, b"1"),
    ],
)
def test_parts_of_a_manifest_have_one_place_only(part: Part) -> None:
    with pytest.raises(StreamCorrupt):
        decode(as_bytes(part))


@pytest.mark.parametrize("holds", Holds)
def test_names_come_from_numbers_alone(holds: Holds) -> None:
    assert holds_and_number(File(0, holds, 4711).name) == (holds, 4711)


def test_the_head_of_a_message_is_all_but_its_frames(tmp_path: Path) -> None:
    for data in recorded(chain_of(tmp_path / "checkpoint")):
        head = head_of(decode(data))
        place = place_of_frames(head)
        n_bytes = place[2] if place else 0
        assert (head, n_bytes) == (data[: len(data) - n_bytes], len(data) - len(head))


def test_the_largest_message_of_frames_fits() -> None:
    assert MAX_FRAMES_BYTES < MAX_MESSAGE_BYTES

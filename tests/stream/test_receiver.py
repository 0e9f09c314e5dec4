"""What arrives is written down as it was sent; what does not fit together is refused, and leaves nothing."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from formats import roundwriter
from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.checkpointlock import CheckpointBusy
from formats.errors import ImageVersionUnsupported, PredumpError
from formats.faults import Point
from formats.flatten import FlattenOptions
from formats.frames import compress_frames
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES
from formats.manifest import Manifest, Parent, RoundKind
from formats.manifestfile import decode_manifest, encode_manifest
from formats.replacing import flatten_in_place
from streams.errors import StreamBroken, StreamCorrupt, StreamRefused
from streams.messages import (
    PROTOCOL_VERSION,
    Begin,
    File,
    Frames,
    Hello,
    Holds,
    Message,
    Part,
    Remove,
    decode,
    split_manifest,
)
from streams.receiver import Receiver
from streams.resend import send_round
from streams.roundreceiver import TooLarge
from streams.sender import Sender
from tests.format.images import (
    ImageRound,
    fill_round,
    manifest_of,
    page_of,
    process_of,
    write_chain,
    write_pages,
    write_round,
)
from tests.stream.recorded import FIRST, PARENT, ZERO, Player, Recorder, chain_of, recorded, tree_of

Messages = list[bytes]


def as_bytes(message: Message) -> bytes:
    return b"".join(message.encode())


def received(directory: Path, messages: Messages, **options: int) -> Player:
    player = Player(messages)
    with Receiver(directory, **options) as receiver:
        receiver.take(player)
    return player


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """The checkpoint that is sent."""
    return chain_of(tmp_path / "sent")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where it arrives."""
    return tmp_path / "received"


def test_what_arrives_is_what_was_sent(sent: Path, directory: Path) -> None:
    messages = recorded(sent)
    player = received(directory, messages)
    assert tree_of(directory) == tree_of(sent)
    assert player.acknowledged == len(messages)
    assert verify(Checkpoint.open(directory)).exit_code == 0
    assert oct(directory.stat().st_mode)[-3:] == "700"
    assert {oct(path.stat().st_mode)[-3:] for path in directory.rglob("*.*")} == {"600"}


def test_a_round_that_is_sent_while_it_is_made_is_the_one_on_disk(tmp_path: Path, directory: Path) -> None:
    """The same writer fills both."""
    images = FIRST, ImageRound({0: page_of(9), 1: PARENT, 2: ZERO})
    recorder = Recorder()
    sender = Sender(recorder)
    sender.greet()
    parent: Parent | None = None
    for number, image in enumerate(images, start=1):
        round_ = sender.open_round(number)
        fill_round(round_, image)
        discarded = round_.open_process(99)
        write_pages(discarded, image.pages)
        round_.discard(discarded)
        _, sha256 = round_.commit(manifest_of(number, process_of(image), parent))
        parent = Parent(round=number, sha256=sha256)
    received(directory, recorder.messages)
    assert tree_of(directory) == tree_of(write_chain(tmp_path / "disk", *images))


def test_rounds_are_reported_when_they_are_complete(sent: Path, directory: Path) -> None:
    seen = []
    with Receiver(directory, on_round=lambda info: seen.append((info.number, info.manifest.kind))) as receiver:
        receiver.take(Player(recorded(sent)))
    assert seen == [(1, RoundKind.PRE_DUMP), (2, RoundKind.PRE_DUMP), (3, RoundKind.DUMP)]


def test_a_stream_that_breaks_off_leaves_the_rounds_before(sent: Path, directory: Path) -> None:
    messages = recorded(sent)
    begins = [i for i, data in enumerate(messages) if isinstance(decode(data), Begin)]
    directory.mkdir()
    for end in range(len(messages)):
        target = directory / str(end)
        with Receiver(target) as receiver, pytest.raises(StreamBroken):
            receiver.take(Player(messages[:end], breaks=True))
        whole = sum(begin <= end for begin in begins[1:])
        assert sorted(path.name for path in target.iterdir()) == [f"{number:04d}" for number in range(1, whole + 1)]


def test_an_interrupt_right_behind_the_making_of_a_round_leaves_none(
    sent: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(point: Point) -> None:
        if point is Point.ROUND_MADE and (directory / "0002").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(roundwriter, "reached", interrupt)
    with Receiver(directory) as receiver, pytest.raises(KeyboardInterrupt):
        receiver.take(Player(recorded(sent)))
    assert [path.name for path in directory.iterdir()] == ["0001"]


def test_the_end_in_the_middle_of_a_round_is_refused(sent: Path, directory: Path) -> None:
    messages = recorded(sent)
    player = Player(messages[:4])
    with Receiver(directory) as receiver, pytest.raises(StreamCorrupt, match="in the middle of round 1"):
        receiver.take(player)
    assert player.refusal is not None
    assert player.refusal[1] == 20
    assert list(directory.iterdir()) == []


def test_an_unfinished_round_of_somebody_else_is_removed(sent: Path, directory: Path) -> None:
    (directory / "0001").mkdir(parents=True)
    (directory / "0001" / "pages-1.zst").write_bytes(b"unfinished")
    received(directory, recorded(sent))
    assert tree_of(directory) == tree_of(sent)


def test_two_receivers_do_not_share_a_directory(directory: Path) -> None:
    with Receiver(directory), pytest.raises(CheckpointBusy):
        Receiver(directory)


# ---- what the stream goes on with ----


def test_a_new_checkpoint_does_not_go_into_one_that_is_there(sent: Path, directory: Path) -> None:
    messages = recorded(sent)
    received(directory, messages)
    before = tree_of(directory)
    player = Player(messages)
    with Receiver(directory) as receiver, pytest.raises(StreamRefused, match="has another one up to round 3"):
        receiver.take(player)
    assert player.refusal is not None
    assert tree_of(directory) == before


def test_a_chain_may_begin_with_any_round(tmp_path: Path, directory: Path) -> None:
    """As one does that was flattened."""
    sent = tmp_path / "sent"
    parent = write_round(sent, 7, FIRST)
    write_round(sent, 8, ImageRound({0: page_of(9), 1: PARENT}), parent)
    received(directory, recorded(sent))
    assert tree_of(directory) == tree_of(sent)
    assert verify(Checkpoint.open(directory)).exit_code == 0


def test_a_flattened_round_is_gone_on_behind(tmp_path: Path, directory: Path) -> None:
    """On the receiver's side: the sender knows it by the digest that it had."""
    sent = write_chain(tmp_path / "sent", FIRST, ImageRound({0: page_of(9), 1: PARENT}))
    messages = recorded(sent)
    received(directory, messages)
    options = FlattenOptions(level=1, threads=1)
    flatten_in_place(directory, 2, 0, options, lambda _done, _total: None)
    before = Checkpoint.open(sent).round()
    write_round(sent, 3, ImageRound({0: PARENT}), Parent(round=2, sha256=before.sha256))
    recorder = Recorder()
    sender = Sender(recorder)
    sender.greet(before, 3)
    with ThreadPoolExecutor(1) as checkers:
        send_round(sender, Checkpoint.open(sent).round(3), checkers)
    received(directory, recorder.messages)
    assert Checkpoint.open(directory).numbers == [2, 3]
    assert verify(Checkpoint.open(directory)).exit_code == 0


@pytest.mark.parametrize(
    "hello",
    [
        {"checkpoint_id": bytes(16)},
        {"checkpoint_id": bytes(15) + b"1"},
        {"round": 1},
        {"round": 3},
        {"sha256": bytes(32)},
    ],
)
def test_rounds_go_on_behind_the_last_one_only(directory: Path, tmp_path: Path, hello: dict[str, object]) -> None:
    sent = write_chain(tmp_path / "sent", FIRST, ImageRound({0: page_of(9)}))
    received(directory, recorded(sent))
    last = Checkpoint.open(sent).round()
    right = Hello(PROTOCOL_VERSION, 2, bytes.fromhex(last.manifest.checkpoint_id), 2, bytes.fromhex(last.sha256))
    received(directory, [as_bytes(right)])
    with Receiver(directory) as receiver, pytest.raises(StreamRefused):
        receiver.take(Player([as_bytes(replace(right, **hello))]))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"version": PROTOCOL_VERSION + 1}, {"schema": 3}])
def test_another_version_is_refused(sent: Path, directory: Path, wrong: dict[str, int]) -> None:
    messages = recorded(sent)
    hello = decode(messages[0])
    assert isinstance(hello, Hello)
    player = Player([as_bytes(replace(hello, **wrong)), *messages[1:]])
    with Receiver(directory) as receiver, pytest.raises(ImageVersionUnsupported):
        receiver.take(player)
    assert player.refusal is not None
    assert player.refusal[1] == 21


# ---- a sender that is not to be trusted ----


def manifest_in(messages: Messages, position: int = -1) -> Manifest:
    """Of the last part of a manifest, or the one at that position."""
    part = decode(messages[position])
    assert isinstance(part, Part)
    return decode_manifest(bytes(part.content), "manifest")


def with_manifest(messages: Messages, manifest: Manifest) -> Messages:
    """With another manifest at the end."""
    return [*messages[:-1], *map(as_bytes, split_manifest(encode_manifest(manifest)))]


def first_round(sent: Path) -> Messages:
    """The messages of the hello and the first round."""
    messages = recorded(sent)
    return messages[: next(i for i, data in enumerate(messages) if isinstance(decode(data), Part)) + 1]


def replaced(messages: Messages, kind: type[Message], change: Callable[[Message], Message], nth: int = 0) -> Messages:
    """With the nth message of a kind changed."""
    position = [i for i, data in enumerate(messages) if isinstance(decode(data), kind)][nth]
    return [*messages[:position], as_bytes(change(decode(messages[position]))), *messages[position + 1 :]]


def change_of(**fields: object) -> Callable[[Message], Message]:
    return lambda message: replace(message, **fields)  # type: ignore[arg-type]


def change_frames(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Message], Message]:
    def changed(message: Message) -> Message:
        assert isinstance(message, Frames)
        frames = change([bytes(frame) for frame in message.frames])
        return replace(message, frames=frames, contents_bytes=list(message.contents_bytes)[: len(frames)])

    return changed


def flip(frames: list[bytes]) -> list[bytes]:
    """One bit of the first frame's content."""
    frame = bytearray(frames[0])
    frame[len(frame) // 2] ^= 1
    return [bytes(frame), *frames[1:]]


def larger_window(frames: list[bytes]) -> list[bytes]:
    """A frame whose header asks for a window of 128 MiB, and has the same content."""
    content = zstandard.ZstdDecompressor().decompress(frames[0])
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True, write_checksum=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # no size: the window stays
    return [compressor.compress(content) + compressor.flush(), *frames[1:]]


def unchecked(frames: list[bytes]) -> list[bytes]:
    """A frame without a checksum."""
    content = zstandard.ZstdDecompressor().decompress(frames[0])
    return [zstandard.ZstdCompressor(write_checksum=False).compress(content), *frames[1:]]


def bomb(frames: list[bytes]) -> list[bytes]:
    """A frame that says it is small, and holds a GiB."""
    return [zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 26)), *frames[1:]]


def swap(messages: Messages, one: int, other: int) -> Messages:
    changed = list(messages)
    changed[one], changed[other] = changed[other], changed[one]
    return changed


def extra_file(messages: Messages) -> Messages:
    """A whole file that the manifest does not name."""
    frames, contents = compress_frames(memoryview(page_of(1)), PAGES_FRAME_BYTES, 1)
    more = [as_bytes(File(2, Holds.PAGES, 99)), as_bytes(Frames(2, 0, frames, contents))]
    return [*messages[:-1], *more, messages[-1]]


CRIMES: dict[str, Callable[[Messages], Messages]] = {
    "nothing but a round": lambda m: m[1:],
    "hello twice": lambda m: [m[0], *m],
    "hello in a round": lambda m: [*m[:2], m[0], *m[2:]],
    "no round begins": lambda m: [m[0], *m[2:]],
    "round 0": lambda m: [m[0], Begin(1).encode()[0][:4] + bytes(4), *m[2:]],  # type: ignore[list-item]
    "round 2": lambda m: replaced(m, Begin, change_of(round=2)),
    "a round in a round": lambda m: [*m[:3], as_bytes(Begin(2)), *m[3:]],
    "a file out of turn": lambda m: replaced(m, File, change_of(file=5)),
    "the same file twice": lambda m: [*m[:3], as_bytes(File(1, Holds.PAGES, 42)), *m[3:]],
    "a file of a process that is none": lambda m: replaced(m, File, change_of(number=0)),
    "a file of another process": lambda m: replaced(m, File, change_of(number=43)),
    "pages that are a pagemap": lambda m: replaced(m, File, change_of(holds=Holds.PAGEMAP)),
    "pages of an object": lambda m: replaced(m, File, change_of(holds=Holds.OBJECT_PAGES)),
    "a file that the manifest lacks": extra_file,
    "a file less": lambda m: [*m[:-1], as_bytes(Remove(1)), m[-1]],
    "remove what is not there": lambda m: [*m[:-1], as_bytes(Remove(9)), m[-1]],
    "remove twice": lambda m: [*m[:-1], as_bytes(Remove(1)), as_bytes(Remove(1)), m[-1]],
    "frames of no file": lambda m: replaced(m, Frames, change_of(file=9)),
    "frames with a gap": lambda m: replaced(m, Frames, change_of(offset_bytes=4096)),
    "frames far away": lambda m: replaced(m, Frames, change_of(offset_bytes=(1 << 64) - 1)),
    "frames twice": lambda m: [*m[:4], *m[3:]],
    "frames left out": lambda m: [*m[:3], *m[4:]],
    "a frame with a bit changed": lambda m: replaced(m, Frames, change_frames(flip)),
    "a frame that asks for memory": lambda m: replaced(m, Frames, change_frames(larger_window)),
    "a frame without a checksum": lambda m: replaced(m, Frames, change_frames(unchecked)),
    "a bomb": lambda m: replaced(m, Frames, change_frames(bomb)),
    "a frame of something else": lambda m: replaced(
        m, Frames, change_of(frames=compress_frames(memoryview(bytes(41 * PAGE_BYTES)), PAGES_FRAME_BYTES, 1)[0])
    ),
    "no frames but garbage": lambda m: replaced(m, Frames, change_of(frames=[b"garbage, of which nothing is a frame"])),
    "a wrong size of the content": lambda m: replaced(m, Frames, change_of(contents_bytes=[PAGE_BYTES])),
    "a content that is no page": lambda m: replaced(m, Frames, change_of(contents_bytes=[PAGE_BYTES + 1])),
    "another order": lambda m: swap(m, 2, 3),
    "a manifest in the middle": lambda m: [*m[:3], m[-1], *m[3:]],
    "a file after the manifest": lambda m: [*m, as_bytes(File(2, Holds.PAGES, 43))],
    "half a manifest": lambda m: replaced(m, Part, lambda p: Part(100, 0, bytes(p.content)[:100])),  # type: ignore[union-attr]
    "no manifest": lambda m: replaced(m, Part, lambda p: Part(len(p.content), 0, bytes(len(p.content)))),  # type: ignore[union-attr]
    "a manifest of another round": lambda m: with_manifest(m, replace(manifest_in(m), round=2)),
    "sums that are wrong": lambda m: with_manifest(
        m, replace(manifest_in(m), stats=replace(manifest_in(m).stats, pages_data=7))
    ),
    "page counts that are wrong": lambda m: with_manifest(
        m,
        replace(
            manifest_in(m),
            processes=[replace(manifest_in(m).processes[0], pages_data=40)],
            stats=replace(manifest_in(m).stats, pages_data=40),
        ),
    ),
    "memory outside of its mappings": lambda m: with_manifest(
        m,
        replace(
            manifest_in(m),
            processes=[
                replace(
                    manifest_in(m).processes[0],
                    vmas=[
                        replace(vma, end_addr=vma.end_addr - 15 * PAGE_BYTES)
                        for vma in manifest_in(m).processes[0].vmas
                    ],
                )
            ],
        ),
    ),
    "files that hash to something else": lambda m: with_manifest(
        m,
        replace(manifest_in(m), files=[replace(entry, sha256="0" * 64) for entry in manifest_in(m).files]),
    ),
    "files of another size": lambda m: with_manifest(
        m,
        replace(manifest_in(m), files=[replace(entry, stored_bytes=1) for entry in manifest_in(m).files]),
    ),
    "an unknown message": lambda m: [*m[:3], b"\xff" * 64, *m[3:]],
    "an empty message": lambda m: [*m[:3], b"", *m[3:]],
}


@pytest.mark.parametrize("crime", CRIMES)
def test_a_malicious_sender_is_refused(sent: Path, directory: Path, tmp_path: Path, crime: str) -> None:
    """Nothing of its round is left, and nothing is outside of the directory."""
    messages = CRIMES[crime](first_round(sent))
    around = tree_of(tmp_path)
    player = Player(messages)
    with Receiver(directory) as receiver, pytest.raises(StreamCorrupt) as caught:
        receiver.take(player)
    assert caught.value.exit_code == 20
    assert player.refusal == (caught.value.message, 20)
    left = tree_of(directory)
    assert left == {} or crime == "a file after the manifest", "only where the round was complete"
    assert {path: data for path, data in tree_of(tmp_path).items() if not path.startswith("received/")} == around


def test_the_messages_without_a_crime_are_taken(sent: Path, directory: Path) -> None:
    """Else the test above would prove nothing."""
    received(directory, first_round(sent))
    assert len(tree_of(directory)) == 3


CRIMES_OF_CHAINS: dict[str, Callable[[Manifest], Manifest]] = {
    "another checkpoint": lambda m: replace(m, checkpoint_id="f" * 32),
    "another parent": lambda m: replace(m, parent=replace(m.parent, sha256="f" * 64)),  # type: ignore[type-var]
    "full, with parent runs": lambda m: replace(m, full=True, full_reason="so it says"),
    "no parent, with parent runs": lambda m: replace(m, full=True, parent=None, full_reason="so it says"),
    "another process": lambda m: replace(m, processes=[replace(m.processes[0], start_time_ticks=8)]),
    "another boot": lambda m: replace(m, host=replace(m.host, boot_id="another")),
}


@pytest.mark.parametrize("crime", CRIMES_OF_CHAINS)
def test_a_round_that_does_not_follow_is_refused(tmp_path: Path, directory: Path, crime: str) -> None:
    messages = recorded(write_chain(tmp_path / "sent", FIRST, ImageRound({0: page_of(9), 1: PARENT})))
    wrong = with_manifest(messages, CRIMES_OF_CHAINS[crime](manifest_in(messages)))
    with Receiver(directory) as receiver, pytest.raises(StreamCorrupt):
        receiver.take(Player(wrong))
    assert sorted(path.name for path in directory.iterdir()) == ["0001"], "the round before stays"
    assert verify(Checkpoint.open(directory)).exit_code == 0


def test_a_parent_must_have_what_is_referred_to(tmp_path: Path, directory: Path) -> None:
    sent = write_chain(tmp_path / "sent", FIRST, ImageRound({60: PARENT}))
    with (
        Receiver(directory) as receiver,
        pytest.raises(StreamCorrupt, match="refers to a parent that does not have it"),
    ):
        receiver.take(Player(recorded(sent)))
    assert sorted(path.name for path in directory.iterdir()) == ["0001"]


def test_mutations_at_random_are_refused_or_do_no_harm(sent: Path, directory: Path, rng: random.Random) -> None:
    """Whatever is changed, the receiver ends with an error of its own, or with rounds that verify."""
    messages = recorded(sent)
    directory.mkdir()
    exit_codes = set()
    for attempt in range(100):
        changed = list(messages)
        position = rng.randrange(len(changed))
        mutated = bytearray(changed[position])
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(min(len(mutated), 64) if rng.random() < 0.7 else len(mutated))] = rng.randrange(256)
        changed[position] = bytes(mutated)
        if rng.random() < 0.2:
            changed.insert(rng.randrange(len(changed)), rng.choice(messages))
        place = directory / str(attempt)
        with Receiver(place) as receiver:
            try:
                receiver.take(Player(changed))
            except PredumpError as error:
                exit_codes.add(error.exit_code)
        for path in place.iterdir():
            assert (path / "manifest.json").is_file(), "what is left is a round"
        if any(place.iterdir()):
            assert verify(Checkpoint.open(place)).exit_code == 0
    assert exit_codes <= {1, 20, 21}


# ---- limits ----


def endless_frames(n_messages: int) -> Messages:
    """A round that never ends: frames that take little room on the way, and much when they are decompressed."""
    frames, contents = compress_frames(memoryview(bytes(PAGES_FRAME_BYTES)), PAGES_FRAME_BYTES, 1)
    many = [frames[0]] * 32
    messages = [
        as_bytes(Hello(PROTOCOL_VERSION, 2, bytes(16), 0, bytes(32))),
        as_bytes(Begin(1)),
        as_bytes(File(0, Holds.PAGES, 1)),
    ]
    offset_bytes = 0
    for _ in range(n_messages):
        messages.append(as_bytes(Frames(0, offset_bytes, many, contents * 32)))
        offset_bytes += sum(map(len, many))
    return messages


def test_no_more_is_written_than_allowed(directory: Path) -> None:
    player = Player(endless_frames(2000))
    with Receiver(directory, max_bytes=50_000) as receiver, pytest.raises(TooLarge) as caught:
        receiver.take(player)
    assert player.refusal == (caught.value.message, 1)
    assert player.acknowledged < 100
    assert list(directory.iterdir()) == []


def test_a_sender_without_end_costs_no_memory(directory: Path) -> None:
    with Receiver(directory) as receiver:
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(StreamBroken):
            receiver.take(Player(endless_frames(200), breaks=True))  # 1.6 GiB of content
        grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 100_000


def test_files_without_end_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.roundreceiver.MAX_FILES", 10)
    messages = [as_bytes(Hello(PROTOCOL_VERSION, 2, bytes(16), 0, bytes(32))), as_bytes(Begin(1))]
    messages += [as_bytes(File(i, Holds.PAGES, i + 1)) for i in range(11)]
    with Receiver(directory) as receiver, pytest.raises(StreamCorrupt, match="file 10 is not the next one"):
        receiver.take(Player(messages))
    assert list(directory.iterdir()) == []

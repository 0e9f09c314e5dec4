"""A receiver is killed at each point of each message, and the next one goes on: nothing is lost, or taken twice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from formats.check import verify
from formats.checkpoint import Checkpoint
from formats.faults import Point, die_at
from formats.frames import compress_frames
from formats.layout import PAGES_FRAME_BYTES
from streams.errors import StreamBroken
from streams.journal import JOURNAL_NAME
from streams.messages import Begin, File, Frames, Holds, Remove, decode
from streams.receiver import Receiver
from tests.format.images import page_of
from tests.stream.recorded import Player, chain_of, recorded, tree_of

SESSION = bytes(range(16))
OTHER_SESSION = bytes(16)
POINTS = (
    Point.RECEIVED,
    Point.JOURNALED,
    Point.ACKNOWLEDGED,
    Point.INTENDED,
    Point.RENEWED,
    Point.ROUND_MADE,
    Point.FILES_SYNCED,
    Point.MANIFEST_WRITTEN,
    Point.MANIFEST_RENAMED,
)


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """The checkpoint that is sent."""
    return chain_of(tmp_path / "sent")


@pytest.fixture
def messages(sent: Path) -> list[bytes]:
    """Of the checkpoint, with files in a round that are removed again, one of them to come a second time."""
    found = recorded(sent)
    start = next(i for i, data in enumerate(found) if isinstance(decode(data), Begin)) + 1
    frames, contents = compress_frames(memoryview(page_of(1)), PAGES_FRAME_BYTES, 1)
    again = [
        File(0, Holds.PAGES, 42),
        Frames(0, 0, frames, contents),
        File(1, Holds.PAGES, 99),
        Remove(0),
        Frames(1, 0, frames, contents),
        Remove(1),
    ]
    rest = []
    in_first = True
    for data in found[start:]:
        message = decode(data)
        in_first = in_first and not isinstance(message, Begin)
        if in_first and isinstance(message, File | Frames):
            rest.append(b"".join(replace(message, file=message.file + 2).encode()))
        else:
            rest.append(data)
    return [*found[:start], *(b"".join(message.encode()) for message in again), *rest]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where it arrives."""
    return tmp_path / "received"


class Told(Player):
    """Says in a file what was acknowledged: the process may be killed."""

    def __init__(self, messages: Sequence[bytes], file: Path, **options: int) -> None:
        super().__init__(messages, **options)  # type: ignore[arg-type]
        self._file = file

    def acknowledge(self, number: int) -> None:
        super().acknowledge(number)
        self._file.write_text(str(number))


def in_child(action: Callable[[], None]) -> int:
    """Does it in a process of its own; its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(point: str, messages: list[bytes], directory: Path, told: Path, first: int = 0) -> int:
    """A receiver that is killed there; returns the last message that was acknowledged. With "" it is not killed."""

    def receive() -> None:
        die_at(point)
        with Receiver(directory) as receiver:
            assert receiver.resume(SESSION) == first
            receiver.take(Told(messages, told, first=first), SESSION)

    told.write_text(str(first))
    assert in_child(receive) == -signal.SIGKILL, f"{point} was not reached"
    return int(told.read_text())


def resumed(directory: Path, messages: list[bytes], acknowledged: int) -> None:
    """The next receiver goes on with what the one before had acknowledged, or one message further, and ends well."""
    with Receiver(directory) as receiver:
        first = receiver.resume(SESSION)
        assert acknowledged <= first <= acknowledged + 1
        player = Player(messages, first=first)
        receiver.take(player, SESSION)
        assert player.acknowledged == len(messages)


def assert_whole(directory: Path, sent: Path) -> None:
    assert tree_of(directory) == tree_of(sent)
    assert verify(Checkpoint.open(directory)).exit_code == 0


@pytest.mark.parametrize("point", POINTS)
def test_a_receiver_is_killed_wherever_it_passes(
    point: Point, messages: list[bytes], sent: Path, tmp_path: Path
) -> None:
    """At each pass of the point; where there is one for each message, at every third, others for each point."""
    often = {
        Point.RECEIVED: range(1, len(messages) - 2, 3),
        Point.JOURNALED: range(2, len(messages) - 3, 3),
        Point.ACKNOWLEDGED: range(3, len(messages), 3),
        Point.RENEWED: range(1, 5),
    }
    for nth in often.get(point, range(1, 4)):
        directory = tmp_path / str(nth)
        acknowledged = killed_at(f"{point}:{nth}", messages, directory, tmp_path / "told")
        resumed(directory, messages, acknowledged)
        assert_whole(directory, sent)


def test_a_receiver_is_killed_again_and_again(
    messages: list[bytes], sent: Path, directory: Path, tmp_path: Path
) -> None:
    """With each message: what was gone over once is gone over again."""
    first = 0
    while first < len(messages):
        first = killed_at(Point.ACKNOWLEDGED, messages, directory, tmp_path / "told", first)
    with Receiver(directory) as receiver:
        receiver.take(Player(messages, first=receiver.resume(SESSION)), SESSION)
    assert_whole(directory, sent)


def test_a_session_that_is_over_is_forgotten(messages: list[bytes], sent: Path, directory: Path) -> None:
    with Receiver(directory) as receiver:
        receiver.take(Player(messages), SESSION)
        assert receiver.resume(SESSION) == 0
    assert_whole(directory, sent)


def test_another_session_is_unknown_and_takes_the_place(
    messages: list[bytes], sent: Path, directory: Path, tmp_path: Path
) -> None:
    killed_at(f"{Point.ACKNOWLEDGED}:5", messages, directory, tmp_path / "told")
    with Receiver(directory) as receiver:
        assert receiver.resume(OTHER_SESSION) == 0
        assert (directory / JOURNAL_NAME).exists(), "a question gives nothing up"
        receiver.take(Player(messages), OTHER_SESSION)
        assert receiver.resume(SESSION) == 0
    assert_whole(directory, sent)


def test_a_pipe_takes_the_place(messages: list[bytes], sent: Path, directory: Path, tmp_path: Path) -> None:
    killed_at(f"{Point.ACKNOWLEDGED}:5", messages, directory, tmp_path / "told")
    with Receiver(directory) as receiver:
        receiver.take(Player(messages))
    assert_whole(directory, sent)


def frames_end(messages: list[bytes]) -> int:
    """The number of the last message of frames in the first round."""
    begins = [i for i, data in enumerate(messages) if isinstance(decode(data), Begin)]
    return max(i for i, data in enumerate(messages[: begins[1]]) if isinstance(decode(data), Frames)) + 1


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zero_end(path: Path) -> None:
    """What some file systems leave of what was written last before a power cut."""
    size = path.stat().st_size
    os.truncate(path, size - 20)
    os.truncate(path, size)


@pytest.mark.parametrize("damage", [cut, zero_end, Path.unlink])
@pytest.mark.parametrize("name", ["0001/pages-42.zst", "0001/pagemap-42.zst"])
def test_files_that_are_not_as_they_were_are_given_up(
    damage: Callable[[Path], None], name: str, messages: list[bytes], sent: Path, directory: Path, tmp_path: Path
) -> None:
    """As after a power cut: the session is unknown, and its round is gone."""
    killed_at(f"{Point.ACKNOWLEDGED}:{frames_end(messages)}", messages, directory, tmp_path / "told")
    damage(directory / name)
    with Receiver(directory) as receiver:
        assert receiver.resume(SESSION) == 0
        assert list(directory.iterdir()) == []
        receiver.take(Player(messages), OTHER_SESSION)
    assert_whole(directory, sent)


def cut_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


@pytest.mark.parametrize("damage", [cut_end, zero_end])
def test_a_journal_that_is_cut_off_is_believed_as_far_as_it_goes(
    damage: Callable[[Path], None], messages: list[bytes], sent: Path, directory: Path, tmp_path: Path
) -> None:
    killed_at(f"{Point.ACKNOWLEDGED}:{frames_end(messages)}", messages, directory, tmp_path / "told")
    damage(directory / JOURNAL_NAME)
    with Receiver(directory) as receiver:
        first = receiver.resume(SESSION)
        assert 0 < first < frames_end(messages)
        receiver.take(Player(messages, first=first), SESSION)
    assert_whole(directory, sent)


def test_a_journal_of_garbage_is_none(messages: list[bytes], sent: Path, directory: Path) -> None:
    directory.mkdir()
    (directory / JOURNAL_NAME).write_bytes(os.urandom(1000))
    with Receiver(directory) as receiver:
        assert receiver.resume(SESSION) == 0
        receiver.take(Player(messages), SESSION)
    assert_whole(directory, sent)


def test_rounds_that_somebody_else_added_end_the_session(
    messages: list[bytes], directory: Path, tmp_path: Path
) -> None:
    """The journal goes on behind round 1; now there is another round 2."""
    begins = [i for i, data in enumerate(messages) if isinstance(decode(data), Begin)]
    killed_at(f"{Point.ACKNOWLEDGED}:{begins[1] + 3}", messages, directory, tmp_path / "told")
    other = tmp_path / "other"
    with Receiver(other) as receiver:
        receiver.take(Player(messages[: begins[2]]))
    for path in (directory / "0002").iterdir():
        path.unlink()
    (directory / "0002").rmdir()
    (other / "0002").rename(directory / "0002")
    with Receiver(directory) as receiver:
        assert receiver.resume(SESSION) == 0
    assert Checkpoint.open(directory).numbers == [1, 2]


def test_what_breaks_off_in_a_living_receiver_is_removed(messages: list[bytes], directory: Path) -> None:
    with Receiver(directory) as receiver, pytest.raises(StreamBroken):
        receiver.take(Player(messages[:5], breaks=True), SESSION)
    assert list(directory.iterdir()) == []

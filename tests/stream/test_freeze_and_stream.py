"""What a stream means to a frozen target: it waits for no network, and is killed only when its dump has arrived."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dumper.dump import AfterDump
from dumper.errors import HandoverFailed
from dumper.events import Emit
from dumper.freeze import Freeze
from dumper.proc.smaps import parse_smaps_flags, read_smaps
from dumper.rounds import Options
from dumper.session import Session
from dumper.streamdestination import StreamDestination
from dumper.vmflags import EARLY
from formats.checkpoint import Checkpoint
from formats.manifest import RoundKind
from streams.errors import StreamBroken, StreamRefused
from streams.messages import Begin, Part, decode
from streams.receiver import Receiver
from streams.transport import Buffer
from tests.harness import Target, is_alive, is_stopped, is_untouched, memory_target, poll_until, tracer_pid
from tests.oracle import compare
from tests.stream.recorded import Player, Recorder

pytestmark = pytest.mark.usefixtures("targets")

LEAVE_RUNNING = AfterDump.LEAVE_RUNNING


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with memory_target(tmp_path) as started:
        yield started


class Watching(Recorder):
    """Calls `look` with each message, and `arrived` when somebody waits, but for the first round."""

    def __init__(self, look: Callable[[], None], arrived: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._look = look
        self._arrived = arrived
        self.gave_up = False

    def send(self, parts: Sequence[Buffer]) -> int:
        self._look()
        return super().send(parts)

    def wait_for(self, number: int) -> None:
        super().wait_for(number)
        if self.rounds > 1:
            self._arrived()

    def give_up(self) -> None:
        self.gave_up = True

    @property
    def rounds(self) -> int:
        """That have begun."""
        return sum(isinstance(decode(data), Begin) for data in self.messages)


class Elsewhere(StreamDestination):
    """Processes run there as soon as their dump has arrived, if everything here agrees."""

    def __init__(self, outgoing: Recorder) -> None:
        super().__init__(outgoing, "test")
        self.hands_over = True

    def prepare_handover(self) -> None:
        """Nobody is asked."""

    def hand_over(self, _freeze: Freeze, _emit: Emit, confirm: Callable[[], None]) -> None:
        confirm()


def dumped(target: Target, outgoing: Watching, after: AfterDump, **options: int) -> None:
    """A pre-dump and a dump."""
    with Session(target.pid, StreamDestination(outgoing, "test"), Options(**options), lambda _: None) as session:
        session.dump(after, pre_dump=True)


def received(directory: Path, outgoing: Recorder) -> Checkpoint:
    with Receiver(directory) as receiver:
        receiver.take(Player(outgoing.messages))
    return Checkpoint.open(directory)


def test_nothing_is_sent_while_the_target_is_frozen(target: Target, tmp_path: Path) -> None:
    """So it cannot wait for the network, however slow that is."""
    touched: list[int] = []

    def look() -> None:
        if not is_untouched(target.pid):
            touched.append(len(outgoing.messages))

    outgoing = Watching(look)
    dumped(target, outgoing, LEAVE_RUNNING)
    assert touched == []
    assert not outgoing.gave_up
    manifest = received(tmp_path / "received", outgoing).round().manifest
    assert manifest.kind is RoundKind.DUMP
    assert not manifest.streamed_while_frozen


def test_what_does_not_fit_the_staging_memory_is_sent_while_it_is_frozen(target: Target, tmp_path: Path) -> None:
    """The test above can fail."""
    frozen: list[int] = []

    def look() -> None:
        if tracer_pid(target.pid):
            frozen.append(len(outgoing.messages))

    outgoing = Watching(look)
    dumped(target, outgoing, LEAVE_RUNNING, staging_bytes=1 << 20)
    assert frozen != []
    assert received(tmp_path / "received", outgoing).round().manifest.streamed_while_frozen


def test_the_target_lives_and_stands_still_until_its_dump_has_arrived(target: Target) -> None:
    seen: list[tuple[bool, bool]] = []

    def arrived() -> None:
        assert isinstance(decode(outgoing.messages[-1]), Part)
        seen.append((is_alive(target.pid), tracer_pid(target.pid) == os.getpid()))

    outgoing = Watching(lambda: None, arrived)
    dumped(target, outgoing, AfterDump.KILL)
    *ahead, last = seen
    assert set(ahead) == {(True, False)}  # rounds right before the freeze
    assert last == (True, True)
    poll_until(lambda: not is_alive(target.pid), 10, "the target to be killed")


@pytest.mark.parametrize("error", [StreamBroken("the link is down"), StreamRefused("the disk is full")])
@pytest.mark.parametrize(
    ("after", "frozen"),
    [(after, frozen) for after in AfterDump for frozen in (False, True) if not frozen or after is not LEAVE_RUNNING],
)
def test_a_dump_that_does_not_arrive_leaves_the_target_as_it_was(
    target: Target, error: Exception, after: AfterDump, frozen: bool
) -> None:
    def arrived() -> None:
        if not frozen or tracer_pid(target.pid):
            raise error

    outgoing = Watching(lambda: None, arrived)
    with pytest.raises(type(error)):
        dumped(target, outgoing, after)
    assert outgoing.gave_up
    assert is_untouched(target.pid)
    target.command("write 500 3")


@pytest.mark.parametrize("method", ["pread", "registered"])
def test_memory_that_is_written_unseen_is_sent_again(method: str, tmp_path: Path) -> None:
    """There is no earlier round to compare it with."""
    with Target.spawn("hardware", method, tmp_path / "file") as target:
        outgoing = Watching(lambda: None)
        dumped(target, outgoing, AfterDump.LEAVE_STOPPED)
        poll_until(lambda: is_stopped(target.pid), 10, "the target to stop")
        directory = tmp_path / "received"
        process = received(directory, outgoing).round().process(target.pid)
        assert process is not None
        assert process.pages_parent == 0
        assert compare(target.pid, directory).mismatches == []


def test_a_child_that_takes_the_dump_sends_rounds_ahead_by_itself(tmp_path: Path) -> None:
    """It has none of the threads that compress for its parent."""
    with Target.spawn("special", "seccomp-errno") as target:
        outgoing = Watching(lambda: None)
        with Session(target.pid, StreamDestination(outgoing, "test"), Options(), lambda _: None) as session:
            session.track()
            session.take_round()
            target.command("write 300")
            session.take_dump(AfterDump.LEAVE_STOPPED)
        poll_until(lambda: is_stopped(target.pid), 10, "the target to stop")
        directory = tmp_path / "received"
        ahead = received(directory, outgoing).round(2).manifest
        assert ahead.kind is RoundKind.PRE_DUMP
        assert ahead.stats.pages_data > 100
        assert compare(target.pid, directory).mismatches == []


def flags_in(checkpoint: Checkpoint, pid: int) -> dict[int, tuple[str, str]]:
    """Flags and note of each mapping by its address."""
    process = checkpoint.round().process(pid)
    assert process is not None
    return {vma.start_addr: (vma.flags, vma.note) for vma in process.vmas}


@pytest.mark.parametrize("grows", [False, True])
def test_flags_are_read_in_the_freeze_of_a_handover_only_where_mappings_changed(
    target: Target, grows: bool, tmp_path: Path
) -> None:
    seen: list[dict[int, str]] = []

    def grow() -> None:
        if grows:
            target.command("grow")
        flags = parse_smaps_flags(read_smaps(target.pid))
        seen.append({start: text.replace(" uw", "") for start, _, text in flags})

    outgoing = Watching(lambda: None)
    with Session(target.pid, Elsewhere(outgoing), Options(), lambda _: None) as session:
        session.track()
        session.take_round()
        session.take_dump(AfterDump.KILL, grow)
    poll_until(lambda: not is_alive(target.pid), 10, "the target to be killed")
    told = flags_in(received(tmp_path / "received", outgoing), target.pid)
    assert {addr: flags for addr, (flags, _) in told.items()} == seen[0]
    assert any(note == EARLY for _, note in told.values()) is not grows


def test_flags_that_change_right_before_the_freeze_are_no_handover(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(tid: int) -> bytes:
        text = read_smaps(tid)
        return text.replace(b"VmFlags: rd wr", b"VmFlags: rd wr dc", 1) if tracer_pid(target.pid) else text

    monkeypatch.setattr("dumper.vmflags.read_smaps", read)
    with Session(target.pid, Elsewhere(Watching(lambda: None)), Options(), lambda _: None) as session:
        session.track()
        session.take_round()
        with pytest.raises(HandoverFailed, match="changed the flags of its memory"):
            session.take_dump(AfterDump.KILL)
    assert is_untouched(target.pid)
    target.command("write 500 3")


@pytest.mark.parametrize("change", ["write 500 7", "zap 200", "remap", "move", "grow", "protect"])
def test_rounds_ahead_and_the_freeze_behind_them_see_every_change(target: Target, change: str, tmp_path: Path) -> None:
    """Neither asks for more than what has changed since the round before it."""

    def again() -> None:
        target.command(change)

    outgoing, directory = Watching(lambda: None), tmp_path / "received"
    with Session(target.pid, StreamDestination(outgoing, "test"), Options(), lambda _: None) as session:
        session.track()
        session.take_round()
        target.command("write 300 5")
        target.command(change)
        session.take_dump(AfterDump.LEAVE_STOPPED, again)
    poll_until(lambda: is_stopped(target.pid), 10, "the target to stop")
    checkpoint = received(directory, outgoing)
    assert checkpoint.round(2).manifest.kind is RoundKind.PRE_DUMP
    compared = compare(target.pid, directory)
    assert compared.mismatches == []
    assert compared.pages_compared > 1000

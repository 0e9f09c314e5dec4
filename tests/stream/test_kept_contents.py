"""What a receiver has checked is kept for who fills memory with it, as long as it is needed, and not too much of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint, RoundInfo
from formats.framereader import FrameReader
from formats.layout import PAGES_FRAME_BYTES, pages_name
from formats.roundwriter import RoundWriter
from streams import keptcontents
from streams.keptcontents import KeptContents
from streams.messages import File, Frames, Holds, Remove, decode
from streams.questions import Offer, Problem, WantedFile
from streams.receiver import Receiver
from streams.roundreceiver import Budget, RoundReceiver, check_frames
from streams.takeover import Takeover
from tests.stream.recorded import Player, chain_of, recorded

Contents = dict[str, list[bytes]]


class Fake:
    """Brings nothing back, but looks at what was kept."""

    def __init__(self) -> None:
        self.kept: list[Contents] = []
        self.infos: list[RoundInfo] = []

    def problems(self, files: Sequence[WantedFile]) -> list[Problem]:
        del files
        return []

    def prepare(self, info: RoundInfo) -> None:
        self.kept.append(dict(info.contents))
        self.infos.append(info)

    def complete(self, info: RoundInfo) -> list[str]:
        self.prepare(info)
        return []

    def before_run(self) -> None:
        """Never comes to that."""

    def run(self) -> list[int]:
        return []

    def abort(self) -> None:
        """Nothing was made."""

    def is_there(self, processes: Sequence[str]) -> bool:
        del processes
        return False


def received(tmp_path: Path) -> Fake:
    fake = Fake()
    with (
        Takeover(tmp_path / "received", fake, 60) as takeover,
        Receiver(tmp_path / "received", takeover=takeover) as to,
    ):
        takeover.answer(Offer(), b"", 1)
        to.take(Player(recorded(chain_of(tmp_path / "sent"))))
    return fake


def on_disk(info: RoundInfo) -> Contents:
    found = {}
    for process in info.manifest.processes:
        name = pages_name(process.pid)
        with FrameReader(info.path / name, max_frame_bytes=PAGES_FRAME_BYTES) as reader:
            found[name] = [reader.read_frame(index) for index in range(reader.frame_count)]
    return found


def test_the_pages_of_each_round_are_there_and_then_gone(tmp_path: Path) -> None:
    fake = received(tmp_path)
    sent = Checkpoint.open(tmp_path / "sent")
    assert fake.kept == [on_disk(info) for info in sent.rounds]
    assert [info.contents for info in fake.infos] == [{}, {}, {}]


def test_of_a_large_round_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = on_disk(Checkpoint.open(chain_of(tmp_path / "sizes")).round(1))
    monkeypatch.setattr(keptcontents, "MAX_KEPT_BYTES", sum(len(one) for frames in sent.values() for one in frames) - 1)
    assert received(tmp_path).kept[0] == {}


def test_what_is_removed_is_not_kept(tmp_path: Path) -> None:
    messages = [decode(data) for data in recorded(chain_of(tmp_path / "sent"))]
    frames = next(one for one in messages if isinstance(one, Frames))
    arriving = RoundReceiver(RoundWriter(tmp_path / "received", 1), 1, None, Budget(1 << 30))
    arriving.file(File(0, Holds.PAGES, 42))
    kept = KeptContents()
    contents = check_frames(frames, Holds.PAGES)
    kept.see(frames, contents, arriving)
    kept.see(Remove(0), [], arriving)
    assert kept.take() == {}
    kept.see(frames, contents, arriving)
    assert kept.take() == {"pages-42.zst": contents}
    arriving.abandon()


def test_contents_that_are_not_those_of_all_frames_are_not_believed(tmp_path: Path) -> None:
    info = Checkpoint.open(chain_of(tmp_path / "sent")).round(1)
    (process,) = info.manifest.processes
    name = pages_name(process.pid)
    whole = on_disk(info)[name]
    other = [bytes(len(one)) for one in whole]
    for kept, given in (
        (other, other),
        (other[1:], whole),
        ([*other, b""], whole),
        ([one[1:] for one in other], whole),
    ):
        info.contents[name] = kept
        with info.pages_of(process).open_frames() as reader:
            assert [reader.read_frame(index) for index in range(reader.frame_count)] == given

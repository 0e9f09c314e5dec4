"""What a receiver has of one session: messages are acted upon, counted and, if it is to be resumed, written down."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from formats.checkpoint import RoundInfo, last_round
from formats.errors import PredumpError
from formats.faults import Point, reached
from formats.replacing import tidy_up
from formats.roundwriter import KeptRoundWriter, remove_unfinished
from streams.journal import Entry, Journal, JournalReader, remove_journal
from streams.messages import (
    Begin,
    File,
    Frames,
    Message,
    Remove,
    corrupt,
    decode,
    head_of,
    place_of_frames,
)
from streams.roundreceiver import Budget, check_frames
from streams.sequence import Sequence


class Session:
    """A session in a checkpoint directory, which is locked. `number` is that of the last message in its place.

    Made with `begin`, or with `take_up` where a receiver before left one; ends with `end`.
    """

    def __init__(self, path: Path, session_id: bytes, budget: Budget) -> None:
        self.id = session_id
        self.number = 0
        self.sequence = Sequence(path, last_round(path), budget, self._intend)
        self._path = path
        self._journal: Journal | None = None

    @staticmethod
    def begin(path: Path, session_id: bytes, budget: Budget) -> Session:
        """Whatever else was begun there is given up. Without an id nothing is written down. Raises StorageError."""
        remove_journal(path)
        tidy_up(path)
        session = Session(path, session_id, budget)
        session._renew_journal(0)
        return session

    @staticmethod
    def take_up(path: Path, session_id: bytes, budget: Budget) -> Session | None:
        """Goes on with that session if there is a journal of it, and files that it agrees with."""
        session: Session | None = None
        try:
            with JournalReader(path) as reader:
                if reader.session_id == session_id:
                    session = Session(path, session_id, budget)
                    session._replay(reader)
        except PredumpError:
            # Files that are shorter than they were, or damaged, after a power cut: nothing of it can be believed.
            if session is not None:
                session.end()
                tidy_up(path)
            return None
        return session

    @property
    def is_resumable(self) -> bool:
        """Whether it is written down."""
        return self._journal is not None

    def place(self, message: Message) -> RoundInfo | None:
        """Acts on the next message, and writes down that it is in its place; returns a round that it committed.

        Raises as Sequence.act_on.
        """
        sequence, journal, number = self.sequence, self._journal, self.number + 1
        before = sequence.last
        if isinstance(message, Remove) and journal is not None:
            journal.add(number, head_of(message))  # before: what is removed cannot be gone over again
            sequence.act_on(message)
        else:
            sequence.act_on(message)
            reached(Point.RECEIVED)
            if sequence.last is not before:
                self._renew_journal(number)
            elif journal is not None:
                journal.add(number, head_of(message))
        self.number = number
        return sequence.last if sequence.last is not before else None

    def end(self) -> None:
        """It cannot be resumed any more; a round that was not completed is removed."""
        self.sequence.abandon()
        with suppress(PredumpError):  # of one whose directory an interrupt has just followed nobody knows
            remove_unfinished(self._path)
        self.close()
        remove_journal(self._path)

    def close(self) -> None:
        """Closes the journal, which stays. May be called again."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _intend(self, round_number: int, sha256: str) -> None:
        if self._journal is not None:
            self._journal.intend(self.number + 1, round_number, bytes.fromhex(sha256))

    def _renew_journal(self, number: int) -> None:
        """All up to this message is in the rounds."""
        if self.id:
            self.close()
            last = self.sequence.last
            self._journal = Journal.begin(self._path, self.id, number, last.number if last else 0)

    # ---- going on ----------------------------------------------------------------------------------------------

    def _replay(self, reader: JournalReader) -> None:
        """Raises PredumpError if what it says does not fit what is there."""
        sequence = self.sequence
        last = sequence.last
        removed: set[int] = set()
        for record in reader.records():
            if isinstance(record, Entry):
                removed |= _removed_by(record.head)
            elif last and (record.round, record.sha256.hex()) == (last.number, last.sha256):
                sequence.go_on()
                self.number = record.number
                self._renew_journal(record.number)
                return
        if reader.round != (last.number if last else 0):
            raise corrupt("the journal is not of these rounds")
        if reader.number:
            sequence.go_on()
        self.number = reader.number
        writers: list[KeptRoundWriter] = []
        for record in reader.records():
            if isinstance(record, Entry):
                self._go_over(record.head, removed, writers)
                self.number = record.number
        if writers:
            writers[0].cut()
        else:
            tidy_up(self._path)
        self._journal = reader.go_on()

    def _go_over(self, head: bytes, removed: set[int], writers: list[KeptRoundWriter]) -> None:
        """Acts on a message again whose frames are on disk; a round that begins adds its writer."""
        sequence, round_ = self.sequence, self.sequence.round
        place = place_of_frames(head)
        if place is None:
            message = decode(head)
            if isinstance(message, Begin):

                def keep(path: Path, number: int) -> KeptRoundWriter:
                    writers.append(KeptRoundWriter(path, number))
                    return writers[0]

                sequence.act_on(message, keep)
            elif not (isinstance(message, File | Remove) and message.file in removed):
                sequence.act_on(message)
            elif isinstance(message, File) and round_ is not None:
                round_.skip_file()
            return
        file, offset_bytes, n_bytes = place
        if file in removed:
            return
        if round_ is None:
            raise corrupt("the journal has frames outside of a round")
        frames = decode(head + writers[0].read(round_.name_of(file), offset_bytes, n_bytes))
        assert isinstance(frames, Frames)
        check_frames(frames, round_.holds[file])
        sequence.act_on(frames)


def _removed_by(head: bytes) -> set[int]:
    message = None if place_of_frames(head) else decode(head)
    return {message.file} if isinstance(message, Remove) else set()

"""The receiving side of a handover: processes are built while their rounds arrive, and run at the sender's word.

    Build  ->  built, standing still; they wait for the word until the time is over, and then end
    Go     ->  written down, let go, answered

What decides is written down before anything runs, so that a receiver that is started again knows that it must not let
them go a second time. docs/stream.md says what each loss comes to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from formats import files
from formats.checkpoint import Checkpoint, RoundInfo
from formats.closing import Closing
from formats.errors import ImageCorrupt, PredumpError, StorageError
from formats.faults import Point, reached
from formats.manifest import Manifest, RoundKind
from formats.records import decode_record, encode_record
from streams.errors import StreamRefused
from streams.filecopy import FileCopies
from streams.keptcontents import KeptContents
from streams.messages import Content, corrupt
from streams.questions import MAX_FILES, Build, Built, Copied, Copy, Files, Found, Go, Offer, Offered, Question, Running
from streams.revival import Revival
from streams.transport import Incoming

RECORD_NAME = "receive.handover"
_MAX_RECORD_BYTES = 1 << 20
T = TypeVar("T")
AnswerRecord = Offered | Found | Copied | Built | Running


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was about to run when it was written: by message `number` of a session (hex). `has_run`: it has run."""

    session: str
    number: int
    round: int
    processes: list[str]
    has_run: bool = False


class Takeover(Closing):
    """A handover on the receiving side, from the offer on. `running` is the last word, once they run."""

    def __init__(self, path: Path, revival: Revival, timeout_s: float) -> None:
        """`path` is the checkpoint; `timeout_s`: how long built processes wait for the word."""
        self.running: Running | None = None
        self.contents = KeptContents()
        self._path = path
        self._revival = revival
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="revival")  # owns ptrace
        self._copies = FileCopies()
        self._is_offered = False
        self._is_recalled = False
        self._dump: RoundInfo | None = None
        self._processes: Future[list[str]] | None = None
        self._expires_s: float | None = None
        self._is_expired = False

    def close(self) -> None:
        """End what was built, unless it runs. May be called again."""
        if self.running is None:
            self._revival_abort()
            self._copies.close()
        self._thread.shutdown(cancel_futures=True)

    @property
    def left_s(self) -> float | None:
        """For how long what is built waits for the word; None if nothing waits."""
        return None if self._expires_s is None else max(self._expires_s - _now_s(), 0.0)

    def expire(self) -> None:
        """The time is over: what was built ends, and will be refused."""
        self._expires_s = None
        self._is_expired = True
        self._revival_abort()

    def begin_round(self) -> None:
        """Raises StreamRefused if the sender keeps the process."""
        if not self._is_offered:
            raise StreamRefused(
                "the process would run twice: its sender does not give it up",
                hint="Add --kill to 'predump run', or receive without --restore and restore it afterwards.",
            )

    def round_arrived(self, info: RoundInfo) -> None:
        """A round was committed. Returns when all that can be done with a pre-dump is done: only then may it be
        acknowledged, so that its sender does not freeze the process while there is work left from before.

        Raises PredumpError if it cannot live.
        """
        info = replace(info, contents=self.contents.take())
        if info.manifest.kind is RoundKind.DUMP:
            self._copies.remove_others(_paths(info.manifest))
            self._dump = info
            self._processes = self._submit(lambda: self._revival.complete(info))
            self._processes.add_done_callback(lambda _: info.contents.clear())
        else:
            self._do(lambda: self._revival.prepare(info))
            info.contents.clear()

    def answer(self, question: Question, session_id: bytes, number: int) -> AnswerRecord:
        """Answers message `number`. Raises PredumpError: nothing runs then, and nothing will."""
        match question:
            case Offer():
                self._is_offered = True
                return Offered(restores=True)
            case Files():
                problems = self._revival.problems(question.files[:MAX_FILES])
                self._copies.allow(question.files, problems)
                return Found(problems=problems)
            case Copy():
                self._copies.finish(question)
                return Copied()
            case Build():
                return self._build(session_id)
            case Go():
                return self._go(session_id, number)

    def content(self, message: Content) -> None:
        """Bytes of a file that was missing. Raises StreamCorrupt, StreamRefused, StorageError."""
        self._copies.take(message)

    def recall(self, incoming: Incoming, session_id: bytes) -> None:
        """Goes on as an earlier receiver of this session, and says again what that may not have been able to say."""
        self._is_offered = self._is_recalled = True
        record = self._record(session_id)
        if record is not None:
            self.running = self._as_recorded(record)
            incoming.answer(record.number, json.dumps(encode_record(self.running)).encode())

    # ---- the two steps -----------------------------------------------------------------------------------------

    def _build(self, session_id: bytes) -> Built:
        if self._record(session_id) is not None:
            return Built(build_ns=0)  # they were about to run before; Go tells
        if self._processes is None and self._is_recalled:
            self.round_arrived(Checkpoint.open(self._path).round())  # it came to the receiver before this one
        if self._processes is None:
            raise corrupt("a process is to be built, and its dump did not come")
        since_ns = time.monotonic_ns()
        self._processes.result()
        reached(Point.TAKEOVER_BUILT)
        self._expires_s = _now_s() + self._timeout_s
        return Built(build_ns=time.monotonic_ns() - since_ns)

    def _go(self, session_id: bytes, number: int) -> Running:
        record = self._record(session_id)
        if record is not None:
            self.running = self._as_recorded(record)
            return self.running
        is_late = self.left_s == 0.0
        self._expires_s = None
        if self._processes is None or self._dump is None:
            raise StreamRefused(
                "the process was built by a receiver that has ended since, and the process with it",
                hint="The original goes on. Try again.",
            )
        if self._is_expired or is_late:
            self._revival_abort()
            raise StreamRefused(
                f"the word to let the process run did not come within {self._timeout_s:g} s: it was ended here",
                hint="The original goes on. Try again with a larger --handover-timeout on both sides.",
            )
        since_ns = time.monotonic_ns()
        self._do(self._revival.before_run)
        running_ns = time.monotonic_ns()
        record = Record(
            session=session_id.hex(), number=number, round=self._dump.number, processes=self._processes.result()
        )
        path = self._write(record)
        reached(Point.TAKEOVER_RECORDED)
        try:
            pids = self._do(self._revival.run)
        except PredumpError:
            path.unlink(missing_ok=True)
            raise
        with suppress(StorageError):  # it runs all the same
            self._write(replace(record, has_run=True))
        self.running = Running(pids=pids, hook_ns=running_ns - since_ns, resume_ns=time.monotonic_ns() - running_ns)
        reached(Point.TAKEOVER_RUNS)
        self._copies.keep()
        return self.running

    # ---- what is written down ----------------------------------------------------------------------------------

    def _write(self, record: Record) -> Path:
        """Where it is: for the next receiver, should this one be killed. Raises StorageError."""
        path = self._path / RECORD_NAME
        temporary = path.with_suffix(".tmp")
        try:
            temporary.unlink(missing_ok=True)
            fd = files.create_file(temporary)
            try:
                files.write_all(fd, [json.dumps(encode_record(record)).encode()], temporary)
            finally:
                os.close(fd)
            temporary.rename(path)
        except OSError as error:
            raise StorageError.from_os_error("write", path, error) from error
        return path

    def _record(self, session_id: bytes) -> Record | None:
        """The one of this session, if it has an id and there is one. Raises StorageError, ImageCorrupt."""
        path = self._path / RECORD_NAME
        if not session_id or not path.exists():
            return None
        fd, size_bytes = files.open_regular(path)
        try:
            content = files.read_exactly(fd, min(size_bytes, _MAX_RECORD_BYTES), 0, path)
        finally:
            os.close(fd)
        try:
            record = decode_record(Record, json.loads(content), RECORD_NAME)
        except ValueError:
            raise ImageCorrupt(f"{path} is damaged.", path=str(path)) from None
        return record if record.session == session_id.hex() else None

    def _as_recorded(self, record: Record) -> Running:
        is_known = record.has_run or self._revival.is_there(record.processes)
        return Running(pids=[], hook_ns=0, resume_ns=0, is_known=is_known)

    # ---- the thread that owns ptrace ---------------------------------------------------------------------------

    def _submit(self, action: Callable[[], T]) -> Future[T]:
        return self._thread.submit(action)

    def _do(self, action: Callable[[], T]) -> T:
        return self._submit(action).result()

    def _revival_abort(self) -> None:
        with suppress(RuntimeError):  # it was closed before
            self._do(self._revival.abort)


def _paths(manifest: Manifest) -> set[str]:
    """Of the files that its processes have mapped or open."""
    mapped = {one.path for process in manifest.processes for one in process.mapped_files}
    return mapped | {one.path for one in manifest.open_files}


def _now_s() -> float:
    """Goes on while the machine sleeps: a process must not be let go after a time that its sender has waited out."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""The transport over a pipe: messages one behind the other, and where there is a way back, answers on another pipe.

    preamble, { item }      item: kind, number of bytes, a message; the last item is an end without bytes
    { answer }              answer: kind, number; a refusal and what a message asked for carry so many bytes

A pipe that breaks is not mended: whoever wants that has TLS.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress

from formats.errors import UsageError
from formats.files import close_quietly, write_pieces
from streams.errors import StreamBroken, StreamCorrupt, StreamRefused
from streams.messages import corrupt
from streams.transport import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES, Buffer, Incoming, Outgoing

PREAMBLE = struct.Struct("<8sII")
"""Magic, version, and whether the sender reads answers."""
MAGIC = b"predump>"
VERSION = 1
ITEM = struct.Struct("<II")
"""Kind, and the bytes that follow."""
MESSAGE, END = 1, 2
ANSWER = struct.Struct("<IIQ")
"""Kind, the bytes that follow, and the number of a message."""
ACKNOWLEDGED, REFUSED, ANSWERED = 1, 2, 3
MAX_REFUSAL_BYTES = 64 << 10
MAX_TEXT = 2000
"""Characters of each of its texts, of which JSON makes up to 12 bytes."""

PIPE_BYTES = 1 << 20
LAST_WORDS_S = 2.0
END_S = 10.0


class _WriteEnd:
    """Writes all of something, unless it is told to give up. A file description that others use stays as it is."""

    def __init__(self, fd: int, name: str) -> None:
        self._name = name
        self._gave_up = False
        self._lock = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._socket: socket.socket | None = None
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode):
            # A description of its own: whether writing may wait is not for us to say of the one that we were given.
            self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with suppress(OSError):  # an unprivileged user has so much for all pipes together
                fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        else:
            self._fd = os.dup(fd)
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=self._fd)

    def write(self, parts: Sequence[Buffer]) -> None:
        """Raises StreamBroken."""
        write_pieces(self._write_some, parts)

    def _write_some(self, parts: list[memoryview]) -> int:
        """How much of it was written; 0 after waiting for room."""
        if self._gave_up:
            raise StreamBroken(f"{self._name} was given up")
        try:
            if self._socket is not None:
                return self._socket.sendmsg(parts, [], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return os.writev(self._fd, parts)
        except BlockingIOError:
            self._wait()
            return 0
        except OSError as error:
            raise _broken(self._name, error) from error

    def _wait(self) -> None:
        """Until more can be written, or nobody is to wait."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.register(self._wake_fd, select.POLLIN)
        poll.poll()

    def give_up(self) -> None:
        with self._lock:
            if self._wake_fd >= 0:
                self._gave_up = True
                os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.detach()
        with self._lock:
            for fd in (self._fd, self._wake_fd):
                if fd >= 0:
                    close_quietly(fd)
            self._fd = self._wake_fd = -1


def _broken(name: str, error: OSError) -> StreamBroken:
    if error.errno in {errno.EPIPE, errno.ECONNRESET}:
        return StreamBroken(
            f"whoever reads {name} has ended before everything was sent",
            hint="Look for the reason there: the receiver says it on its standard error.",
        )
    return StreamBroken(f"{name} cannot be written: {error.strerror}", hint="Try again.")


def _read(fd: int, n_bytes: int) -> bytearray:
    """So many bytes, or what is there before the end. Raises OSError."""
    data = bytearray(n_bytes)
    view = memoryview(data)
    position = 0
    while position < n_bytes:
        got_bytes = os.readv(fd, [view[position:]])
        if not got_bytes:
            view.release()
            del data[position:]
            break
        position += got_bytes
    return data


class PipeOutgoing(Outgoing):
    """Messages into a pipe."""

    def __init__(self, fd: int, answers_fd: int = -1, *, name: str = "standard output") -> None:
        """Copies of the descriptors are used. Without one for answers there is no way back. Raises UsageError."""
        if os.isatty(fd):
            raise UsageError(f"{name} is a terminal", hint="Pipe it into 'predump receive', or into a file.")
        self._name = name
        self._answers_fd = os.dup(answers_fd) if answers_fd >= 0 else -1
        self._is_ended = False
        self._sent = 0
        self._acknowledged = 0
        self._answer: tuple[int, bytes] = (0, b"")
        self._failure: StreamBroken | StreamRefused | StreamCorrupt | None = None
        self._state = threading.Condition()
        self._writer = _WriteEnd(fd, name)
        self._pending: list[Buffer] = [PREAMBLE.pack(MAGIC, VERSION, self.acknowledges)]
        self._reader: threading.Thread | None = None
        if self.acknowledges:
            self._reader = threading.Thread(target=self._read_answers, name="answers", daemon=True)
            self._reader.start()

    @property
    def acknowledges(self) -> bool:
        """Whether there is a way back."""
        return self._answers_fd >= 0

    def send(self, parts: Sequence[Buffer]) -> int:
        """Writes one message. Raises StreamBroken, StreamRefused."""
        self._write(ITEM.pack(MESSAGE, sum(map(len, parts))), *parts)
        self._sent += 1
        return self._sent

    def wait_for(self, number: int) -> None:
        """Waits for its acknowledgement, if there is a way back. Raises as `send`."""
        if not self.acknowledges:
            return
        with self._state:
            while self._acknowledged < number:
                if self._failure:
                    raise self._failure
                self._state.wait()

    def answer_to(self, number: int, timeout_s: float) -> bytes | None:
        """Waits for the answer to the message sent last. Raises as `send`."""
        with self._state:
            self._state.wait_for(lambda: self._answer[0] == number or self._failure is not None, timeout_s)
            if self._answer[0] == number:
                return self._answer[1]
            if self._failure:
                raise self._failure
            return None

    def give_up(self) -> None:
        """Whoever waits gets StreamBroken."""
        with self._state:
            self._failure = self._failure or StreamBroken(f"{self._name} was given up")
            self._state.notify_all()
        self._writer.give_up()

    def close(self) -> None:
        """Says that this is the end if everything was acknowledged, or at least written."""
        self._end()
        if self._reader is not None:
            self._reader.join(LAST_WORDS_S)
            if not self._reader.is_alive():  # else whoever answers is there still: it may go on reading
                close_quietly(self._answers_fd)

    def _end(self) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        with suppress(StreamBroken, StreamCorrupt, StreamRefused):
            if self._failure is None and (not self.acknowledges or self._acknowledged == self._sent):
                self._write(ITEM.pack(END, 0))
        self._writer.close()

    def _write(self, *parts: Buffer) -> None:
        with self._state:
            if self._failure:
                raise self._failure
        pending, self._pending = [*self._pending, *parts], []
        try:
            self._writer.write(pending)
        except BaseException as error:
            if isinstance(error, StreamBroken) and self._reader:
                self._reader.join(LAST_WORDS_S)  # it may have said why
            with self._state:
                # A message may be there in part: nothing can follow it.
                self._failure = self._failure or (
                    error if isinstance(error, StreamBroken) else StreamBroken(f"{self._name} was cut off")
                )
                if isinstance(error, StreamBroken):
                    raise self._failure from None
            raise

    def _read_answers(self) -> None:
        failure: StreamBroken | StreamRefused | StreamCorrupt = StreamBroken(
            f"the receiver behind {self._name} has ended", hint="Look for the reason on its standard error."
        )
        try:
            while len(head := _read(self._answers_fd, ANSWER.size)) == ANSWER.size:
                kind, n_bytes, number = ANSWER.unpack(head)
                if kind == REFUSED and n_bytes <= MAX_REFUSAL_BYTES:
                    failure = _refusal(_read(self._answers_fd, n_bytes))
                    break
                if kind == ANSWERED and n_bytes <= MAX_ANSWER_BYTES:
                    self._take_answer(number, bytes(_read(self._answers_fd, n_bytes)))
                    continue
                if kind != ACKNOWLEDGED or n_bytes or not self._acknowledge(number):
                    failure = corrupt("the receiver sends answers that make no sense")
                    break
        except OSError as error:
            failure = StreamBroken(f"the answers of {self._name} cannot be read: {error.strerror}")
        with self._state:
            self._failure = self._failure or failure
            self._state.notify_all()
        self._writer.give_up()

    def _take_answer(self, number: int, content: bytes) -> None:
        with self._state:
            self._answer = number, content
            self._state.notify_all()

    def _acknowledge(self, number: int) -> bool:
        with self._state:
            # A message may be acknowledged before the thread that wrote it has counted it.
            if not self._acknowledged < number <= self._sent + 1:
                return False
            self._acknowledged = number
            self._state.notify_all()
        return True


def _refusal(data: bytearray) -> StreamRefused:
    try:
        told = json.loads(data)
        message, hint, exit_code = str(told["message"]), str(told["hint"]), int(told["exit_code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message, hint, exit_code = "it did not say why", "", 1
    return StreamRefused(f"the receiver refuses: {message}", hint=hint, receiver_exit_code=exit_code)


class CommandOutgoing(PipeOutgoing):
    """Messages to the standard input of a command, which answers on its standard output."""

    def __init__(self, words: Sequence[str]) -> None:
        """Starts it. Raises UsageError if that is not possible."""
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise UsageError(f"{words[0]} cannot be started: {error.strerror}", hint="Name a command.") from error
        assert self._process.stdin
        assert self._process.stdout
        super().__init__(self._process.stdin.fileno(), self._process.stdout.fileno(), name=f"the pipe to {words[0]}")
        self._process.stdin.close()
        self._process.stdout.close()

    def close(self) -> None:
        """Ends the stream, and waits until the command has ended, too; one that does not is killed."""
        self._end()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        super().close()


class PipeIncoming(Incoming):
    """Messages out of a pipe."""

    def __init__(self, fd: int, answers_fd: int, *, name: str = "standard input") -> None:
        """Answers go to `answers_fd`, if the sender wants any. Raises UsageError."""
        if os.isatty(fd):
            raise UsageError(
                f"{name} is a terminal", hint="Pipe the output of 'predump run' or 'predump send' into it."
            )
        self._name = name
        self._fd = fd
        self._answers_fd = answers_fd
        self._begun = False
        self._wants_answers = False

    def receive(self) -> Buffer | None:
        """The next message, None at the end. Raises StreamBroken, StreamCorrupt."""
        if not self._begun:
            magic, version, wants_answers = PREAMBLE.unpack(self._read(PREAMBLE.size))
            if magic != MAGIC or version != VERSION or wants_answers not in {0, 1}:
                raise corrupt(f"{self._name} does not begin like a stream of this version")
            self._wants_answers = bool(wants_answers)
            self._begun = True
        kind, n_bytes = ITEM.unpack(self._read(ITEM.size))
        if kind == END and n_bytes == 0:
            return None
        if kind != MESSAGE or n_bytes > MAX_MESSAGE_BYTES:
            raise corrupt(f"an item of kind {kind} has {n_bytes} bytes")
        return self._read(n_bytes)

    def acknowledge(self, number: int) -> None:
        """Says so, if the sender wants to know."""
        self._say(ANSWER.pack(ACKNOWLEDGED, 0, number))

    def answer(self, number: int, content: bytes) -> None:
        """Says it, if the sender wants to know."""
        self._say(ANSWER.pack(ANSWERED, len(content), number) + content)

    def refuse(self, message: str, hint: str, exit_code: int) -> None:
        """Says so, if the sender wants to know."""
        told = {"message": message[:MAX_TEXT], "hint": hint[:MAX_TEXT], "exit_code": exit_code}
        data = json.dumps(told).encode()
        self._say(ANSWER.pack(REFUSED, len(data), 0) + data)

    def close(self) -> None:
        """The descriptors are the caller's."""

    def _say(self, data: bytes) -> None:
        if not self._wants_answers:
            return
        view = memoryview(data)
        # Should the sender be gone, then so is its stream, and that is where it shows.
        with suppress(BrokenPipeError, ConnectionResetError):
            while view:
                view = view[os.write(self._answers_fd, view) :]

    def _read(self, n_bytes: int) -> bytearray:
        try:
            data = _read(self._fd, n_bytes)
        except OSError as error:
            raise StreamBroken(f"{self._name} cannot be read: {error.strerror}", hint="Send it again.") from error
        if len(data) < n_bytes:
            raise StreamBroken(
                f"{self._name} ended before the stream was complete",
                hint="Look for the reason where it is sent; the rounds that were complete are whole.",
            )
        return data

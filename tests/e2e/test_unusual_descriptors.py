"""Descriptors of targets made for one case each: many, in motion, of processes that end, and unusual ones."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from dumper.freeze import Freeze
from dumper.state.descriptors import DescriptorCapture
from dumper.state.queries import FIONREAD, query_int
from dumper.target import Target
from formats.checkpoint import Checkpoint
from formats.manifest import Missing
from formats.openfiles import OpenFileKind
from tests import harness
from tests.e2e.opened import capture, info_of

pytestmark = pytest.mark.usefixtures("targets")

F_SEAL_SHRINK, F_SEAL_GROW = 2, 4
F_GET_SEALS = 1034
END = "; print('ready', flush=True); sys.stdin.read()"

CHURN = """
import os, socket, sys
print("ready", flush=True)
while True:
    file = open(sys.executable, "rb")
    ends = os.pipe()
    pair = socket.socketpair()
    os.write(ends[1], b"in the pipe")
    event = os.eventfd(1)
    for fd in (*ends, event):
        os.close(fd)
    for one in (*pair, file):
        one.close()
"""


# ---- the known target, changed --------------------------------------------------------------------------------------


def test_nothing_has_changed_in_the_target(tmp_path: Path) -> None:
    """Its own check takes out of every queue what is in it, so that this is a target of its own, captured twice."""
    with harness.Target.spawn("descriptors", tmp_path) as running:
        child, named = info_of(running)
        first = capture(running.pid, [child], named)
        second = capture(running.pid, [child], named)
        assert [one.offset for one in first.records.open_files] == [one.offset for one in second.records.open_files]
        assert first.records.pipes == second.records.pipes
        assert first.records.missing == second.records.missing
        running.check()


def test_the_end_for_writing_of_a_pipe_that_somebody_else_reads(tmp_path: Path) -> None:
    """The reader is this process, which is none of those that are captured."""
    with harness.Target.spawn("descriptors", tmp_path) as running:
        running.send("info")
        stdout = os.open(f"/proc/{running.pid}/fd/1", os.O_RDONLY | os.O_NONBLOCK)
        try:
            harness.poll_until(lambda: query_int(stdout, FIONREAD) > 0, harness.COMMAND_S, "the answer")
        finally:
            os.close(stdout)
        found = capture(running.pid, [], {"stdout": 1})
        answer = running.answer("info")
        assert found.pipe("stdout").content.decode() == answer + "\n"
        assert found.missing("stdout") == []


def test_thousands_of_descriptors(tmp_path: Path) -> None:
    """More than the usual limit of descriptors, all of them deleted files that have to be opened here."""
    count = 3000
    with harness.Target.spawn("descriptors", tmp_path) as running:
        running.command(f"many {count}")
        child, _ = info_of(running)
        found = capture(running.pid, [child], {})
        many = [one for one in found.records.open_files if one.path.startswith(f"{tmp_path}/#") and not one.size_bytes]
        assert len(many) == count
        assert all(one.object is not None and one.deleted for one in many)
        assert len({one.object for one in many}) == len(many)
        running.check()


def test_a_process_that_is_gone_has_none(tmp_path: Path) -> None:
    with harness.Target.spawn("descriptors", tmp_path) as running, Target(running.pid) as process:
        running.command("quit")
        running.wait()
        with DescriptorCapture() as descriptors:
            descriptors.read([process])
            assert descriptors.contents() == []
            records = descriptors.records({})
            with pytest.raises((FileNotFoundError, ProcessLookupError)):
                descriptors.foresee(process)
    assert records.open_files == []
    assert records.descriptors == {process.pid: []}
    assert records.missing == {process.pid: []}


def test_seals_are_read_through_what_was_opened(tmp_path: Path) -> None:
    with (
        harness.Target.spawn("descriptors", tmp_path) as running,
        Target(running.pid) as process,
        DescriptorCapture() as descriptors,
    ):
        with Freeze(process):
            descriptors.read([process])
            (memfd,) = [one for one in descriptors.contents() if one.kind == "memfd"]
        assert fcntl.fcntl(memfd.fd, F_GET_SEALS) == F_SEAL_SHRINK | F_SEAL_GROW


def test_a_process_that_is_killed_in_the_freeze(tmp_path: Path) -> None:
    with (
        harness.Target.spawn("descriptors", tmp_path) as running,
        Target(running.pid) as process,
        DescriptorCapture() as descriptors,
    ):
        with Freeze(process):
            os.kill(running.pid, signal.SIGKILL)
            harness.poll_until(lambda: harness.proc_state(running.pid) in "ZX", harness.COMMAND_S, "its end")
            descriptors.read([process])
            assert descriptors.contents() == []
        assert descriptors.records({}).open_files == []


def test_tables_of_descriptors_that_are_not_one_for_one_process(tmp_path: Path) -> None:
    with harness.Target.spawn("descriptors", tmp_path) as running:
        tid = int(running.command("apart").split()[1])
        pid = int(running.command("share").split()[1])
        child, _ = info_of(running)
        try:
            found = capture(running.pid, [child, pid], {})
        finally:
            os.kill(pid, signal.SIGKILL)
    expected = Missing(what=f"descriptors of thread {tid}", reason="only those of the process are recorded")
    assert expected in found.records.missing[running.pid]
    assert found.records.missing[pid] == []
    assert found.records.descriptors[pid] == found.records.descriptors[running.pid]
    assert found.records.missing[child] == []


def test_strict_refuses_before_anything_is_touched(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    files = tmp_path / "files"
    files.mkdir()
    with harness.Target.spawn("descriptors", files) as running:
        done = harness.predump("dump", "-t", running.pid, "-D", checkpoint, "--strict", expect=1)
        assert "TCP connections" in done.stderr
        assert not list(checkpoint.glob("*/manifest.json"))
        running.check()


# ---- scripts with something unusual open -------------------------------------------------------------------------


def scripted(code: str, *before: str) -> harness.Target:
    """A Python process that has run `code`; `before`: the command that starts it."""
    words = [*before, sys.executable, "-c", "import os, sys, socket, select, fcntl, termios; " + code + END]
    return harness.Target.spawn(words[0], *words[1:])


def test_unix_sockets_of_another_network_namespace() -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid():
        pytest.skip("needs root and unshare(1)")
    with scripted("a, b = socket.socketpair(); b.send(b'elsewhere')", unshare, "-n") as running:
        records = capture(running.pid, [], {}).records
    one, other = [item for item in records.open_files if item.kind is OpenFileKind.SOCKET]
    assert one.socket is not None
    assert (one.socket.queue, one.socket.peer_inode) == ([b"elsewhere"], other.inode)
    assert records.missing[running.pid] == []


def test_an_interest_list_longer_than_one_read() -> None:
    count = 2000
    code = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)); epoll = select.epoll(); "
        f"pipes = [os.pipe() for _ in range({count})]; [epoll.register(out, 1) for out, _ in pipes]"
    )
    with scripted(code) as running:
        records = capture(running.pid, [], {}).records
    (one,) = [item for item in records.open_files if item.kind is OpenFileKind.EPOLL]
    assert one.epoll is not None
    assert len({watch.fd for watch in one.epoll}) == count
    assert records.missing[running.pid] == []


def test_a_controlling_terminal() -> None:
    code = (
        "os.setsid(); master, slave = os.openpty(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0); "
        "tty = os.open('/dev/tty', os.O_RDWR); os.write(master, b'typed\\n')"
    )
    with scripted(code) as running:
        records = capture(running.pid, [], {}).records
    master, slave, tty = [item for item in records.open_files if item.kind is OpenFileKind.TERMINAL]
    for one in (master, slave, tty):
        assert one.terminal is not None
        assert (one.terminal.session, one.terminal.foreground_group) == (running.pid, running.pid)
        assert one.terminal.index == slave.terminal.index
    assert tty.path == "/dev/tty"
    waiting = {item.what.split(" (")[0]: item.reason for item in records.missing[running.pid]}
    assert any(what.startswith("input waiting in descriptor") for what in waiting)


def test_a_full_pipe_of_the_largest_usual_size() -> None:
    code = (
        "out, into = os.pipe(); size = fcntl.fcntl(into, 1031, 1 << 20); "
        "os.set_blocking(into, False); assert os.write(into, bytes(range(256)) * 4096) == size"
    )
    with scripted(code) as running:
        records = capture(running.pid, [], {}).records
    (pipe,) = [item for item in records.pipes if item.content]
    assert (pipe.capacity_bytes, pipe.content) == (1 << 20, bytes(range(256)) * 4096)
    assert records.missing[running.pid] == []


def test_descriptors_that_come_and_go(tmp_path: Path) -> None:
    """Whatever is open at the freeze is recorded once and whole; nothing of it is taken for missing."""
    with harness.Target.spawn(sys.executable, "-c", CHURN) as running:
        for k in range(10):
            checkpoint = tmp_path / str(k)
            harness.predump("dump", "-p", running.pid, "-D", checkpoint, "--strict")
            (process,) = Checkpoint.open(checkpoint).round().manifest.processes
            assert process.state is not None
            fds = [one.fd for one in process.state.descriptors]
            assert fds[:3] == [0, 1, 2]
            assert len(set(fds)) == len(fds)
            assert harness.is_untouched(running.pid)

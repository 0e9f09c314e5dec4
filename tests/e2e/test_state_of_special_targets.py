"""The state of processes that are awkward to capture: complete, or with what is missing named, and never in doubt."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, O_TRACESYSGOOD, ThreadSet
from dumper.proc.maps import Mapping, MapsParser, read_maps
from dumper.site import find_site, site_like
from dumper.state import process
from dumper.state.process import ProcessCapture, handles_seccomp
from dumper.target import Target as LiveTarget
from tests.harness import Target, poll_until, proc_state

pytestmark = pytest.mark.usefixtures("targets")

STOP_TIMEOUT_NS = 1_000_000_000
NOBODY = 65534


def mappings(target: LiveTarget) -> list[Mapping]:
    return MapsParser().parse(read_maps(target.tid))


@contextmanager
def stopped_threads(pid: int, options: int = O_TRACESYSGOOD) -> Iterator[ThreadSet]:
    threads = ThreadSet(pid)
    try:
        threads.stop(STOP_TIMEOUT_NS, options)
        yield threads
    finally:
        threads.resume()


def test_a_process_whose_main_thread_has_ended() -> None:
    with Target.spawn("special", "leaderless") as target:
        with LiveTarget(target.pid) as live:
            capture = ProcessCapture(live, mappings(live))
            with stopped_threads(target.pid) as threads:
                capture.read(threads)
            state, found, _ = capture.records()
        target.check()
    assert [thread.tid for thread in found] == [live.tid]
    assert state.lineage.ns_pids == [target.pid]
    assert state.lineage.exit_signal == signal.SIGCHLD
    assert state.cwd == os.getcwd()  # noqa: PTH109
    assert state.layout
    assert state.layout.arg_start_addr
    assert state.environment
    assert len(state.limits) == 16


def test_a_process_that_is_killed_while_it_is_read() -> None:
    with Target.spawn("special", "plain") as target, LiveTarget(target.pid) as live:
        capture = ProcessCapture(live, mappings(live))
        with stopped_threads(target.pid) as threads:
            os.kill(target.pid, signal.SIGKILL)
            poll_until(lambda: proc_state(target.pid) in "ZX", 10, "the target to die")
            with pytest.raises(OSError) as caught:  # noqa: PT011
                capture.read(threads)
        assert caught.value.errno in (errno.ENOENT, errno.ESRCH)


def test_a_child_is_injected_where_its_parent_is() -> None:
    with Target.spawn("special", "fork") as target, LiveTarget(target.pid) as parent:
        site = find_site(parent, mappings(parent))
        with LiveTarget(int(target.command("child").split()[1])) as child:
            found = site_like(site, child, mappings(child))
            assert found
            assert (found.syscall_ret_addr, found.restorer_addr) == (site.syscall_ret_addr, site.restorer_addr)
            assert ProcessCapture(child, mappings(child), hint=site).site == found
        target.command("end")
        target.check()


def test_a_site_of_another_program_is_not_taken() -> None:
    with Target.spawn("special", "plain") as target, LiveTarget(target.pid) as first:
        site = find_site(first, mappings(first))
        other = subprocess.Popen(["sleep", "1000"])
        try:
            poll_until(lambda: proc_state(other.pid) == "S", 10, "the program to run")
            with LiveTarget(other.pid) as second:
                assert site_like(site, second, mappings(second)) is None
                capture = ProcessCapture(second, mappings(second), hint=site)
                assert capture.site
                assert capture.site.syscall_ret_addr != site.syscall_ret_addr
        finally:
            other.kill()
            other.wait()


def test_a_process_in_namespaces_of_its_own() -> None:
    words = ["unshare", "--fork", "--kill-child", "--pid", "--uts", "--time", "--monotonic=1000", "--boottime=77"]
    outer = subprocess.Popen([*words, "sleep", "1000"])
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        poll_until(lambda: children.read_text() != "", 10, "the process in the namespaces")
        pid = int(children.read_text())
        poll_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", 10, "the program to run")
        with LiveTarget(pid) as live:
            capture = ProcessCapture(live, mappings(live))
            with stopped_threads(pid) as threads:
                capture.read(threads)
            state, (thread,), missing = capture.records()
    finally:
        outer.kill()
        outer.wait()
    assert missing == []
    assert state.lineage.ns_pids == thread.ns_tids == [pid, 1]
    assert state.lineage.ns_sessions == [os.getsid(0), 0], "its session is outside"
    assert (state.monotonic_offset_ns, state.boottime_offset_ns) == (1000 * 10**9, 77 * 10**9)
    inodes = {one.kind: one.inode for one in state.namespaces}
    own = {kind for kind, inode in inodes.items() if inode != Path(f"/proc/self/ns/{kind}").stat().st_ino}
    assert own == {"pid", "pid_for_children", "uts", "time", "time_for_children"}


def test_a_filter_that_cannot_be_suspended_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    with Target.spawn("special", "seccomp-errno") as target, LiveTarget(target.pid) as live:
        capture = ProcessCapture(live, mappings(live))
        assert capture.foresee() == []
        monkeypatch.setattr(process, "handles_seccomp", lambda: False)
        assert [one.what for one in capture.foresee()] == [
            "seccomp filters",
            "signal handlers, time of timers, signal stacks, program break, prctl settings",
        ]
        target.check()


def test_a_process_without_a_place_for_a_call_is_foreseen() -> None:
    with Target.spawn("special", "plain") as target, LiveTarget(target.pid) as live:
        capture = ProcessCapture(live, [one for one in mappings(live) if one.path != "[stack]"])
        (missing,) = capture.foresee()
        assert "no safe place" in missing.reason
        with stopped_threads(target.pid, O_TRACESYSGOOD | O_SUSPEND_SECCOMP) as threads:
            capture.read(threads)
        _, _, lacking = capture.records()
        assert capture.injected_calls == 0
        assert {one.reason for one in lacking} == {missing.reason}
        assert any("signal stack" in one.what for one in lacking)
        target.check()


def test_who_may_handle_filters() -> None:
    assert handles_seccomp(), "root may"
    child_pid = os.fork()
    if child_pid == 0:
        os.setuid(NOBODY)
        os._exit(int(handles_seccomp()))
    assert os.waitpid(child_pid, 0)[1] == 0, "others may not"


def test_a_thread_with_things_of_its_own_is_named(tmp_path: Path) -> None:
    with Target.spawn("state", tmp_path) as target:
        tid = int(target.command("unshare").split()[1])
        with LiveTarget(target.pid) as live:
            capture = ProcessCapture(live, mappings(live))
            assert {one.what for one in capture.foresee()} == {f"cwd of thread {tid}", f"ns/uts of thread {tid}"}
            with stopped_threads(target.pid, O_TRACESYSGOOD | O_SUSPEND_SECCOMP) as threads:
                capture.read(threads)
            state, _, missing = capture.records()
        assert {f"{what} of thread {tid}" for what in ("cwd", "ns/uts", "umask")} <= {one.what for one in missing}
        assert (state.cwd, state.umask) == (str(tmp_path), 0o27)
        target.check()

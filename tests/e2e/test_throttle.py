"""The CPU time of a target is limited, by a cgroup or by stops, and everything is set back, whoever is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from dumper import cpugroup, throttle
from dumper.cpugroup import CpuGroup, NoCpuGroupError
from dumper.governor import family
from dumper.proc.cgroup import MADE_NAME
from dumper.proc.stat import read_stat
from dumper.target import Target as OpenTarget
from dumper.throttle import Throttle
from formats.checkpoint import Checkpoint
from formats.faults import VARIABLE, Point
from tests.harness import NOBODY, REPO, Target, is_alive, is_untouched, poll_until, predump, unprivileged_python

pytestmark = pytest.mark.usefixtures("targets")

HOME_S = 30
WINDOW_S = 0.25
WAYS = ("cgroup", "stops")
LIMITING = """
import sys, time
from dumper.target import Target
from dumper.throttle import Throttle
with Target(int(sys.argv[1])) as target, Throttle(target, whole=True) as throttle:
    print(throttle.limit(0.1), flush=True)
    if "wait" in sys.argv:
        time.sleep(60)
    throttle.lift()
"""


def cpus_used(pid: int) -> float:
    """CPU seconds per second, in a window of time from now."""
    before, since_s = read_stat(pid).cpu_ticks, time.monotonic()
    time.sleep(WINDOW_S)
    return (read_stat(pid).cpu_ticks - before) / throttle.TICKS_PER_S / (time.monotonic() - since_s)


def cgroups(pid: int) -> str:
    """Of all its threads."""
    return "".join(path.read_text() for path in sorted(Path(f"/proc/{pid}/task").glob("*/cgroup")))


def below(homes: list[tuple[Path, bool]]) -> list[Path]:
    """The cgroups that were made for a target."""
    return [path for home, _ in homes for path in home.glob("predump-throttle-*") if MADE_NAME.fullmatch(path.name)]


def cpu_home() -> Path:
    """Where the tests may make cgroups with a cpu controller."""
    if os.geteuid() != 0:
        pytest.skip("making cgroups needs root")
    for home, unified in cpugroup.homes(os.getpid()):
        if not unified or "cpu" in (home / "cgroup.controllers").read_text().split():
            return home
    pytest.skip("there is no cgroup hierarchy with a cpu controller")


@contextmanager
def cgroup_of(pid: int, home: Path, file: str = "cgroup.procs") -> Iterator[Path]:
    """`pid`, a process or a thread, in a cgroup of its own below `home`."""
    made = home / f"predump-test-{pid}"
    made.mkdir()
    try:
        (made / file).write_text(str(pid))
        yield made
    finally:
        for one in [*made.glob("predump-*"), made]:
            for line in (one / file).read_text().split():
                with suppress(ProcessLookupError):
                    (home / file).write_text(line)
            if one != made:
                one.rmdir()
        poll_until(lambda: _removed(made), HOME_S, f"{made} to get empty")


def _removed(path: Path) -> bool:
    with suppress(OSError):
        path.rmdir()
    return not path.exists()


@contextmanager
def burner(threads: int = 2, way: str = "cgroup") -> Iterator[Target]:
    """A target that burns CPU time and is to be limited in this way: one with a thread elsewhere gets no cgroup."""
    home = cpu_home()
    with Target.spawn("burn", threads) as target, cgroup_of(target.pid, home):
        elsewhere: AbstractContextManager[object] = nullcontext()
        if way == "stops":
            thread = max(int(entry.name) for entry in Path(f"/proc/{target.pid}/task").iterdir())
            if (home / "cgroup.controllers").exists():
                pytest.skip("with cgroup v2 a thread can be elsewhere only in a threaded cgroup")
            elsewhere = cgroup_of(thread, home, "tasks")
        with elsewhere:
            yield target


@contextmanager
def assert_set_back(*pids: int) -> Iterator[None]:
    """After the block the processes are as they were before it."""
    before = [cgroups(pid) for pid in pids]
    homes = cpugroup.homes(pids[0])
    yield
    poll_until(lambda: [cgroups(pid) for pid in pids] == before, HOME_S, "the cgroups to be as before")
    poll_until(lambda: not below(homes), HOME_S, "the made cgroup to be removed")
    poll_until(lambda: all(map(is_untouched, pids)), HOME_S, "all to be untraced")
    for pid in pids:
        ticks = read_stat(pid).cpu_ticks
        poll_until(lambda pid=pid, ticks=ticks: read_stat(pid).cpu_ticks > ticks, HOME_S, "it to run on")  # type: ignore[misc]


@pytest.mark.parametrize("way", WAYS)
def test_the_cpu_time_is_limited_and_set_back(way: str) -> None:
    with burner(3, way) as target, assert_set_back(target.pid), OpenTarget(target.pid) as opened:
        free = cpus_used(target.pid)
        with Throttle(opened, whole=False) as limiter:
            how = limiter.limit(0.1)
            assert ("cgroup /" in how) if way == "cgroup" else ("stopped for 90%" in how)
            assert cpus_used(target.pid) < 0.5 * free, how
            assert limiter.share == 0.1
            with limiter.lifted():
                assert is_untouched(target.pid)
                assert limiter.share == 1
            assert limiter.share == 0.1
            limiter.lift()
            assert is_untouched(target.pid)
            assert cpus_used(target.pid) > 0.3 * free


def test_nobody_who_sleeps_is_disturbed() -> None:
    """A call with a time to wait would start over at each stop, and never come to its end."""
    with burner(2, "stops") as target, OpenTarget(target.pid) as opened, Throttle(opened, whole=False) as limiter:
        limiter.limit(0.05)

        def naps() -> int:
            n_naps, interrupted = map(int, re.findall(r"=(\d+)", target.command("naps")))
            assert interrupted == 0
            return n_naps

        start = naps()
        poll_until(lambda: naps() > start + 20, HOME_S, "20 naps")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whole", [False, True])
def test_children_are_limited_and_set_back(whole: bool, way: str) -> None:
    with burner(1, way) as target:
        before = int(target.command("fork").split()[1])
        with (
            assert_set_back(target.pid, before),
            OpenTarget(target.pid) as opened,
            Throttle(opened, whole=whole) as limiter,
        ):
            limiter.limit(0.1)
            born = int(target.command("fork").split()[1])
            if way == "cgroup":
                assert "predump-throttle" in cgroups(born)
                assert ("predump-throttle" in cgroups(before)) == whole
            elif whole:
                poll_until(lambda: not is_untouched(born), HOME_S, "the child to be stopped")
        assert "predump-throttle" not in cgroups(born)
        assert is_untouched(born)


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_ends_meanwhile(way: str) -> None:
    with burner(1, way) as target, OpenTarget(target.pid) as opened:
        homes = cpugroup.homes(target.pid)
        child = int(target.command("fork").split()[1])
        with Throttle(opened, whole=True) as limiter:
            limiter.limit(0.2)
            os.kill(target.pid, signal.SIGKILL)
            target.wait()
            poll_until(lambda: not is_alive(child), HOME_S, "the child to end with it")
            limiter.lift()
        assert not below(homes)


def test_the_target_has_a_limit_already() -> None:
    with Target.spawn("burn", 2) as target, cgroup_of(target.pid, cpu_home()) as own:
        group = CpuGroup(own, (own / "cgroup.controllers").exists())
        group.limit(0.5)
        limit_file = own / ("cpu.max" if group.unified else "cpu.cfs_quota_us")
        limit = limit_file.read_text()
        assert cpugroup.allowed_cpus(own) == pytest.approx(0.5)
        with assert_set_back(target.pid), OpenTarget(target.pid) as opened, Throttle(opened, whole=False) as limiter:
            assert str(own) in limiter.limit(0.5)
            inner = next(path for path in own.iterdir() if MADE_NAME.fullmatch(path.name))
            CpuGroup(inner, group.unified).limit(64)  # more than the one above allows
            assert cpus_used(target.pid) < 0.9
        assert limit_file.read_text() == limit


@pytest.mark.parametrize("end", ["exception", "SIGTERM", "SIGKILL", "SIGINT"])
@pytest.mark.parametrize("way", WAYS)
def test_predump_ends_while_a_limit_holds(way: str, end: str) -> None:
    with burner(2, way) as target, assert_set_back(target.pid):
        if end == "exception":
            with (
                suppress(ZeroDivisionError),
                OpenTarget(target.pid) as opened,
                Throttle(opened, whole=False) as limiter,
            ):
                limiter.limit(0.1)
                raise ZeroDivisionError
            return
        with limiting(target, "wait") as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.send_signal(getattr(signal, end))
            process.wait(HOME_S)


@contextmanager
def limiting(target: Target, *words: str, die_at: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process that limits the target until it is ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIMITING, str(target.pid), *words],
        cwd=REPO,
        env={**os.environ, VARIABLE: die_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


POINTS = {
    "cgroup": (
        Point.GOVERNOR_MADE,
        Point.GOVERNOR_MOVED,
        Point.GOVERNOR_LIFTED,
        Point.THROTTLED,
        Point.UNTHROTTLED,
    ),
    "stops": (Point.GOVERNOR_STOPPED, f"{Point.GOVERNOR_STOPPED}:5", Point.THROTTLED, Point.UNTHROTTLED),
}


@pytest.mark.parametrize(("way", "point"), [(way, point) for way, points in POINTS.items() for point in points])
def test_one_of_the_two_is_killed_at_a_point(way: str, point: str) -> None:
    with burner(2, way) as target, assert_set_back(target.pid), limiting(target, die_at=point) as process:
        out, errors = process.communicate(timeout=HOME_S)
        if not point.startswith("governor"):
            assert process.returncode == -signal.SIGKILL, f"{point} was not reached"
        elif point in (Point.GOVERNOR_MADE, Point.GOVERNOR_MOVED, Point.GOVERNOR_STOPPED):
            assert not out
            assert b"governor was ended" in errors
        else:
            assert process.returncode == 0, errors


def test_both_are_killed_at_once_and_the_next_predump_sets_back() -> None:
    with burner(1) as target, assert_set_back(target.pid):
        with limiting(target, "wait") as process:
            assert process.stdout is not None
            process.stdout.readline()
            governors = [pid for pid in family(process.pid, whole=True) if pid != process.pid]
            os.kill(process.pid, signal.SIGSTOP)  # it must not set back
            for pid in governors:
                os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait(HOME_S)
        assert "predump-throttle" in cgroups(target.pid)
        poll_until(lambda: not any(map(is_alive, governors)), HOME_S, "the governor to be gone")
        with OpenTarget(target.pid) as opened, Throttle(opened, whole=False) as limiter:
            limiter.limit(0.5)
            assert len(below(cpugroup.homes(target.pid))) == 1


def test_a_user_without_privileges_stops_his_own_process() -> None:
    prefix, env = unprivileged_python()
    burn = subprocess.Popen([*NOBODY, str(REPO / "tests/targets/bin/burn"), "1"], stdin=subprocess.PIPE)
    try:
        poll_until(lambda: read_stat(burn.pid).name == "burn", HOME_S, "the target to start")
        done = subprocess.run(
            [*prefix, "-c", LIMITING, str(burn.pid)],
            cwd=REPO,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=HOME_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "stopped for 90%" in done.stdout
        assert is_untouched(burn.pid)
    finally:
        burn.kill()
        burn.wait()


def test_who_may_do_neither_is_told() -> None:
    prefix, env = unprivileged_python()
    with Target.spawn("burn", 1) as target:
        program = LIMITING.replace("Target(int(sys.argv[1]))", "Other(int(sys.argv[1]))").replace(
            "with Other",
            """
import os
from contextlib import contextmanager
from types import SimpleNamespace
@contextmanager
def Other(pid):
    yield SimpleNamespace(pid=pid, pidfd=os.pidfd_open(pid))
with Other""",
        )
        done = subprocess.run(
            [*prefix, "-c", program, str(target.pid)],
            cwd=REPO,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=HOME_S,
            check=False,
        )
        assert "ThrottleError" in done.stderr
        assert "it may not be stopped, and no cgroup can be had" in done.stderr
        assert is_untouched(target.pid)


def test_threaded_cgroups_of_v2() -> None:
    """As far as it goes where v1 has the cpu controller: moved into a threaded child, born there, and moved back."""
    if os.geteuid() != 0:
        pytest.skip("making cgroups needs root")
    root = next((home for home, unified in cpugroup.homes(os.getpid()) if unified), None)
    if root is None:
        pytest.skip("cgroup v2 is not mounted")
    with Target.spawn("burn", 2) as target, cgroup_of(target.pid, root) as home:
        made = home / f"predump-throttle-{target.pid}-1"
        made.mkdir()
        (made / "cgroup.type").write_text("threaded")
        assert (home / "cgroup.type").read_text() == "domain threaded\n"
        group = CpuGroup(made, unified=True)
        group.take_in(target.pid)
        child = int(target.command("fork").split()[1])
        group.take_in(child)  # it is there
        assert {made.name} == {
            line.rpartition("/")[2]
            for pid in (target.pid, child)
            for line in cgroups(pid).splitlines()
            if line.startswith("0::")
        }
        group.set_back()  # though it has no cpu.max where nobody has enabled the controller
        assert (home / "cgroup.type").read_text() == "domain\n"
        assert not made.exists()
        assert sorted(map(int, (home / "cgroup.procs").read_text().split())) == sorted((target.pid, child))


@pytest.mark.parametrize("broken", ["mountinfo", "controllers"])
def test_where_no_cgroup_can_be_had(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> list[tuple[str, str]]:
        return []

    def nowhere(_: int, tid: int, *, unified: bool) -> str:
        return f"/../of-another-namespace/{tid}{unified}"

    name, value = ("_mounts", nothing) if broken == "mountinfo" else ("_cgroup_path", nowhere)
    monkeypatch.setattr(cpugroup, name, value)
    assert cpugroup.homes(os.getpid()) == []
    with pytest.raises(NoCpuGroupError, match="mounted nowhere"):
        CpuGroup.make(os.getpid())


@pytest.mark.parametrize(
    ("cpus", "quota"),
    [
        (1, (20_000, 20_000)),
        (2.5, (50_000, 20_000)),
        (0.05, (1_000, 20_000)),
        (0.01, (1_000, 100_000)),
        (1e-6, (1_000, 1_000_000)),
    ],
)
def test_quota(cpus: float, quota: tuple[int, int]) -> None:
    assert cpugroup.quota_us(cpus) == quota


def test_a_dump_names_the_cgroup_that_the_process_goes_back_to(checkpoint: Path) -> None:
    with burner(1) as target:
        before = set(Path(f"/proc/{target.pid}/cgroup").read_text().splitlines())
        with OpenTarget(target.pid) as opened, Throttle(opened, whole=False) as limiter:
            limiter.limit(0.5)
            limiter.lift()
            assert "predump-throttle" in cgroups(target.pid)
            predump("dump", "-p", target.pid, "-D", checkpoint)
        (process,) = Checkpoint.open(checkpoint).round().manifest.processes
        assert process.state is not None
        assert set(process.state.cgroups) == before

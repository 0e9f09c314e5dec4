"""A cgroup that is made for some processes for a while, below the one that they are in, to limit the time they run.

With cgroup v2 it is a threaded one: processes may stay in a cgroup that has such children, whose cpu controller limits
them all the same ("no internal process constraint", Documentation/admin-guide/cgroup-v2.rst). Only the root of the
hierarchy can have children of the usual type beside its processes. With the cpu controller of v1 there is no such rule.

Children that are born meanwhile are born in the made cgroup, and leave it with the others.
"""

import contextlib
import errno
import math
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dumper.proc import GONE_ERRORS
from dumper.proc.cgroup import MADE_NAME, UNIFIED_PREFIX, parse_cgroups
from dumper.proc.stat import read_stat

PERIOD_US = 20_000  # short, so that nobody waits long for it; the kernel's own default is 100 ms
MIN_QUOTA_US, MAX_PERIOD_US = 1_000, 1_000_000  # kernel/sched/core.c: min_cfs_quota_period, max_cfs_quota_period
EMPTY_DEADLINE_S = 10.0
POLL_S = 0.005
MAX_PASSES = 1000
OCTAL = re.compile(rb"\\([0-7]{3})")


class NoCpuGroupError(Exception):
    """No cgroup can be had for these processes; the text says why."""


def quota_us(cpus: float) -> tuple[int, int]:
    """(quota, period) that let processes run for `cpus` seconds per second."""
    period = min(MAX_PERIOD_US, max(PERIOD_US, round(MIN_QUOTA_US / cpus)))
    return max(MIN_QUOTA_US, round(cpus * period)), period


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """A made cgroup, by its directory, and whether it is of cgroup v2."""

    path: Path
    unified: bool

    @staticmethod
    def make(pid: int) -> "CpuGroup":
        """One below the cgroup that `pid` is in; nobody is in it yet. Raises NoCpuGroupError; nothing is left then."""
        reasons = []
        for unified in (True, False):
            try:
                return _make(pid, unified=unified)
            except NoCpuGroupError as error:
                reasons.append(str(error))
            except OSError as error:
                reasons.append(f"{error.filename or 'a cgroup'}: {error.strerror}")
        raise NoCpuGroupError("; ".join(reasons))

    @property
    def home(self) -> Path:
        """Where its processes come from and go back to."""
        return self.path.parent

    def take_in(self, pid: int) -> None:
        """Moves a process with all its threads into it; one that has ended is left alone. Raises NoCpuGroupError."""
        try:
            homes = {_cgroup_path(pid, int(tid), unified=self.unified) for tid in os.listdir(f"/proc/{pid}/task")}  # noqa: PTH208
            if {os.path.basename(path) for path in homes} == {self.path.name}:  # noqa: PTH119 - born there
                return
            if {_directory(path, unified=self.unified) for path in homes} != {self.home}:
                raise NoCpuGroupError(
                    f"process {pid} is in another cgroup than the others, or its threads are in several"
                )
            (self.path / "cgroup.procs").write_text(str(pid))
        except GONE_ERRORS:
            return
        except OSError as error:
            raise NoCpuGroupError(f"process {pid} cannot be moved into {self.path}: {error.strerror}") from None

    def limit(self, cpus: float) -> None:
        """Lets what is in it run for `cpus` seconds per second, or as long as the cgroups above do, if that is less.

        Raises NoCpuGroupError.
        """
        quota, period = quota_us(min(cpus, allowed_cpus(self.home)))
        try:
            if self.unified:
                (self.path / "cpu.max").write_text(f"{quota} {period}")
            else:
                self.lift()  # a new period must not make the old quota exceed that of the parent
                (self.path / "cpu.cfs_period_us").write_text(str(period))
                (self.path / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError as error:
            raise NoCpuGroupError(f"{self.path} takes no limit: {error.strerror}") from None

    def lift(self) -> None:
        """Takes the limit away, at once. Raises OSError: ENOENT if the cgroup is gone, or has no such controller."""
        name, text = ("cpu.max", "max") if self.unified else ("cpu.cfs_quota_us", "-1")
        with (self.path / name).open("r+") as file:  # not "w": nobody may create a file there, which is EACCES
            file.write(text)

    def set_back(self) -> None:
        """Takes the limit away, moves everybody back and removes the cgroup; without effect if that was done.

        Raises OSError: EBUSY if it does not get empty in EMPTY_DEADLINE_S; no limit holds even then.
        """
        with contextlib.suppress(*GONE_ERRORS):  # it may be just the controller that is gone, and the limit with it
            self.lift()
        with contextlib.suppress(*GONE_ERRORS):
            self._empty()
        made = MADE_NAME.fullmatch(self.path.name)
        if made and made["enabled"]:
            with contextlib.suppress(OSError):  # somebody else uses it by now
                if not any(MADE_NAME.fullmatch(path.name) for path in self.home.iterdir()):
                    (self.home / "cgroup.subtree_control").write_text("-cpu")

    def _empty(self) -> None:
        deadline = time.monotonic() + EMPTY_DEADLINE_S
        while True:
            for pid in self._members():
                with contextlib.suppress(*GONE_ERRORS):
                    (self.home / "cgroup.procs").write_text(str(pid))
            try:
                self.path.rmdir()
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_S)  # one is just being born, or about to end

    def _members(self) -> list[int]:
        """Threads, one of which stands for its process; those of a threaded cgroup are told one by one only."""
        return [int(line) for line in (self.path / ("cgroup.threads" if self.unified else "tasks")).read_text().split()]


def homes(pid: int) -> list[tuple[Path, bool]]:
    """The cgroups, with whether they are of v2, below which one is made for a process. Empty if none can be found."""
    found = []
    for unified in (True, False):
        with contextlib.suppress(NoCpuGroupError, *GONE_ERRORS):
            directory = _directory(_cgroup_path(pid, pid, unified=unified), unified=unified)
            found.append((directory.parent if MADE_NAME.fullmatch(directory.name) else directory, unified))
    return found


def set_back_left(homes: Iterable[tuple[Path, bool]]) -> bool:
    """Sets back what those left that made a cgroup below one of `homes` and were killed. Whether there was anything.

    Raises OSError as `CpuGroup.set_back`.
    """
    left = [
        CpuGroup(path, unified)
        for home, unified in homes
        for path in home.iterdir()
        if (made := MADE_NAME.fullmatch(path.name)) and not _lives(int(made["pid"]), int(made["start"]))
    ]
    for group in left:
        group.set_back()
    return bool(left)


def _lives(pid: int, start_time_ticks: int) -> bool:
    try:
        stat = read_stat(pid)
    except GONE_ERRORS:
        return False
    return stat.start_time_ticks == start_time_ticks and not stat.has_ended


def allowed_cpus(home: Path) -> float:
    """Seconds per second that a cgroup and those above it let their processes run; infinite without a limit."""
    found = math.inf
    for directory in (home, *home.parents):
        if not (directory / "cgroup.procs").exists():
            break
        with contextlib.suppress(FileNotFoundError):  # the root has none in v2
            if (directory / "cpu.cfs_quota_us").exists():
                quota, period = ((directory / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            else:
                quota, period = (directory / "cpu.max").read_text().split()
            if quota.strip() not in ("max", "-1"):
                found = min(found, int(quota) / int(period))
    return found


def _make(pid: int, *, unified: bool) -> CpuGroup:
    home = _directory(_cgroup_path(pid, pid, unified=unified), unified=unified)
    name = f"predump-throttle-{os.getpid()}-{read_stat(os.getpid()).start_time_ticks}"
    if not unified:
        group = CpuGroup(home / name, unified)
        group.path.mkdir()
        return group
    if "cpu" not in (home / "cgroup.controllers").read_text().split():
        raise NoCpuGroupError(f"{home} has no cpu controller")
    has_cpu = "cpu" in (home / "cgroup.subtree_control").read_text().split()
    group = CpuGroup(home / (name if has_cpu else f"{name}-enabled"), unified)
    group.path.mkdir()
    try:
        if (home / "cgroup.type").exists():  # it is not the root of the hierarchy
            (group.path / "cgroup.type").write_text("threaded")
        if not has_cpu:
            (home / "cgroup.subtree_control").write_text("+cpu")
    except OSError:
        group.path.rmdir()
        raise
    return group


def _cgroup_path(pid: int, tid: int, *, unified: bool) -> str:
    """As /proc/PID/task/TID/cgroup has it. Raises NoCpuGroupError, and OSError if the thread is gone."""
    for line in parse_cgroups(Path(f"/proc/{pid}/task/{tid}/cgroup").read_bytes()):
        _, controllers, path = line.split(":", 2)
        if line.startswith(UNIFIED_PREFIX) if unified else "cpu" in controllers.split(","):
            return path
    raise NoCpuGroupError(f"there is no cgroup v{2 if unified else 1} with a cpu controller")


def _directory(path: str, *, unified: bool) -> Path:
    """Where a cgroup is found: proc_pid_mountinfo(5). Raises NoCpuGroupError."""
    for root, mount_point in _mounts(unified=unified):
        if path == root or path.startswith(root.rstrip("/") + "/"):
            found = Path(mount_point + path[len(root.rstrip("/")) :])
            if "/../" not in f"{path}/" and (found / "cgroup.procs").exists():
                return found
    raise NoCpuGroupError(f"the cgroup {path} is mounted nowhere")


def _mounts(*, unified: bool) -> Iterable[tuple[str, str]]:
    """(root, mount point) of each mount of the hierarchy of cgroup v2, or of the one with the cpu controller of v1."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        kind, _, options = after.split(b" ", 2)
        if (kind == b"cgroup2") if unified else (kind == b"cgroup" and b"cpu" in options.split(b",")):
            root, mount_point = before.split(b" ")[3:5]
            yield _unescaped(root), _unescaped(mount_point)


def _unescaped(path: bytes) -> str:
    return os.fsdecode(OCTAL.sub(lambda match: bytes([int(match[1], 8)]), path))

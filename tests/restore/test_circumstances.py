"""Restores under circumstances: of an earlier dump, by a user without privileges, with little room."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dumper.proc.status import read_thread_status
from dumper.state.threads import credentials
from tests.alive import Lives
from tests.answering import INTERPRETER, Answering, interpreter
from tests.cgroups import limited_cgroup
from tests.filesystems import tmpfs
from tests.harness import live_tree, predump, unprivileged_python

NOBODY_ID = 65534
CAP_SYS_RESOURCE = 24
STEPS = [1, 2, 3, 4]


def test_each_dump_of_a_chain_comes_back(lives: Lives, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with interpreter(
        lives,
        tmp_path,
        "import mmap",
        "private = bytearray(1 << 20); shared = mmap.mmap(-1, 1 << 20); file = open('file', 'w+b', 0)",
        "def step(n): private[n << 14] = n; shared[n << 14] = n; file.write(b'x' * 10)",
        "def steps(): return [n for n in range(9) if private[n << 14]], [n for n in range(9) if shared[n << 14]]",
    ) as target:
        for number, command in enumerate(("pre-dump", "dump", "pre-dump", "dump"), 1):
            target.ask(f"step({number})")
            predump(command, "-p", target.pid, "-D", checkpoint, *(("--keep-tracking",) if command == "dump" else ()))
        lives.end(target.pid)
        for number in (2, 4):
            lives.restore(checkpoint, "--round", number)
            assert target.ask("steps(), file.tell()") == f"(({STEPS[:number]}, {STEPS[:number]}), {10 * number})"
            lives.end(target.pid)
        assert "is a pre-dump" in predump("restore", checkpoint, "--round", 3, "--detach", expect=2).stderr


@pytest.fixture
def common() -> Iterator[Path]:
    """A directory for everybody."""
    with tempfile.TemporaryDirectory(prefix="predump-test-", dir="/tmp") as name:
        Path(name).chmod(0o1777)
        yield Path(name)


def nobodys(lives: Lives, directory: Path, python: Sequence[str], *setup: str) -> Answering:
    """An interpreter of user nobody."""
    target = Answering(lives, directory, [*python, "-S", "-E", "-u", "-c", INTERPRETER])
    for path in directory.iterdir():
        path.chmod(0o666)
    for line in setup:
        assert "Error" not in target.ask(line)
    return target


def test_a_user_without_privileges_brings_back_a_tree_of_his_own(lives: Lives, common: Path) -> None:
    python, env = unprivileged_python()
    setup = (
        "import signal, threading, time; numbers = list(range(1000))",
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "down, up = os.pipe(); r, w = os.pipe()",
        "child = os.fork() or [os.write(w, os.read(down, 9).upper()) for _ in iter(int, 1)]",
        "os.write(up, b'first')",
        "got = []; _ = signal.signal(signal.SIGUSR1, lambda *_: got.append(sum(numbers)))",
    )
    checkpoint = common / "checkpoint"
    with nobodys(lives, common, python, *setup) as target:
        assert target.ask("os.read(r, 9)") == "b'FIRST'"
        pids = live_tree(target.pid)
        predump("dump", "-t", target.pid, "-D", checkpoint, "--kill", prefix=python, env=env)
        lives.end(target.pid)
        done = predump("restore", checkpoint, "--detach", expect=1, prefix=python, env=env)
        assert "may not give processes the ids that they had" in done.stderr
        target.pid = lives.restore(checkpoint, "--pid", "new", prefix=python, env=env)[0]
        assert target.pid not in pids
        assert target.ask("os.getuid(), threading.active_count(), os.getpid()") == f"({NOBODY_ID}, 2, {target.pid})"
        target.ask("os.kill(os.getpid(), signal.SIGUSR1)")
        assert target.ask("got") == "[499500]"
        assert target.ask("os.write(up, b'second'), os.read(r, 9)") == "(6, b'SECOND')"


def test_what_such_a_user_could_not_capture_is_named(lives: Lives, common: Path) -> None:
    python, env = unprivileged_python()
    with nobodys(lives, common, python, "import mmap; m = mmap.mmap(-1, 4096); m[0] = 1") as target:
        done = predump("dump", "-p", target.pid, "-D", common / "ck", "--json", prefix=python, env=env)
        assert done.result["restorable"] is False
        lives.end(target.pid)
        refused = predump("restore", common / "ck", "--pid", "new", "--detach", expect=1, prefix=python, env=env)
        assert "does not have all of its content" in refused.stderr


def test_a_caller_with_lower_limits(lives: Lives, tmp_path: Path) -> None:
    """They are told, unless what is open is more than it may have."""
    checkpoint = tmp_path / "checkpoint"
    with interpreter(
        lives,
        tmp_path,
        "import resource",
        "files = [os.open('/dev/null', os.O_RDONLY) for _ in range(200)]",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (400, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    ) as target:
        target.die(checkpoint)
        few = ("prlimit", "--nofile=100:100", sys.executable)
        assert "may have 100" in predump("restore", checkpoint, "--detach", expect=1, prefix=few).stderr
        lives.restore(checkpoint, prefix=("prlimit", "--nofile=1000:1000", sys.executable))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        may_raise = credentials(read_thread_status(os.getpid())).cap_effective >> CAP_SYS_RESOURCE & 1
        assert target.ask("resource.getrlimit(resource.RLIMIT_NOFILE)") == f"(400, {hard if may_raise else 1000})"
        assert target.ask("all(os.fstat(fd).st_rdev for fd in files)") == "True"


def test_a_cgroup_with_too_little_memory_is_named_beforehand(lives: Lives, tmp_path: Path) -> None:
    checkpoint, limit_bytes = tmp_path / "checkpoint", 100 << 20
    limits = {"memory.max": limit_bytes, "memory.limit_in_bytes": limit_bytes}
    with interpreter(lives, tmp_path, "import zlib; data = os.urandom(120 << 20)", "c = zlib.crc32(data)") as target:
        target.die(checkpoint)
        with limited_cgroup("memory", limits) as group:
            joins = ("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh", sys.executable)
            refused = predump("restore", checkpoint, "--detach", expect=1, prefix=joins).stderr
        assert "MiB of memory, and there are" in refused
        target.come_back(checkpoint)
        assert target.ask("zlib.crc32(data) == c") == "True"


def test_a_full_file_system(lives: Lives, tmp_path: Path) -> None:
    """Where a file without a name is to be made again: nothing is left, and with room there it works."""
    checkpoint = tmp_path / "checkpoint"
    with (
        tmpfs(tmp_path / "small", "size=4m") as place,
        interpreter(
            lives,
            tmp_path,
            f"import mmap; file = os.open('{place}/file', os.O_RDWR | os.O_CREAT)",
            "os.ftruncate(file, 2 << 20); memory = mmap.mmap(file, 2 << 20); memory[:] = b'x' * (2 << 20)",
            f"os.unlink('{place}/file')",
        ) as target,
    ):
        target.die(checkpoint)
        (place / "filler").write_bytes(bytes(3 << 20))
        assert "No space left on device" in target.fail_to_come_back(checkpoint)
        assert [entry.name for entry in place.iterdir()] == ["filler"]
        (place / "filler").unlink()
        target.come_back(checkpoint)
        assert target.ask("memory[-1], os.pread(file, 1, 5)") == "(120, b'x')"
        lives.end(target.pid)

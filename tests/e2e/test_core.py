"""A core of a dump, opened by gdb, shows what gdb shows of the process itself, which is still stopped.

The process is looked at last with gdb: that leaves marks in it (breakpoints that come and go copy pages of files).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_real_programs import started
from tests.elfreader import Core, Segment
from tests.harness import COMMAND_S, Target, is_stopped, memory_target, number, poll_until, predump
from tests.oracle import PAGE_BYTES, Mapping, ProcessMemory, read_maps
from tests.redisserver import SERVER, answers, free_port, running

GDB, READELF = shutil.which("gdb"), shutil.which("readelf")
pytestmark = [
    pytest.mark.usefixtures("targets"),
    pytest.mark.skipif(GDB is None or READELF is None, reason="gdb and readelf are not installed"),
]

GDB_S = 120
PIECE_BYTES = 1 << 20
GENERAL = (
    "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags cs ss ds es fs gs fs_base gs_base "
    "orig_rax"
)
FLOATING = "st0 st1 st2 st3 st4 st5 st6 st7 fctrl fstat ftag fiseg fioff foseg fooff fop mxcsr"
# Each command's output is kept by thread. No AVX-512: gdb before 14 misreads it in a live process of some processors.
PER_THREAD = {
    "backtrace": "backtrace",
    "general": f"info registers {GENERAL}",
    "floating point": f"info registers {FLOATING}",
    "vectors": "info registers " + " ".join(f"xmm{n} ymm{n}" for n in range(16)),
}
PYTHON = """
import threading
lock = threading.Lock()

def work(depth):
    table = {}
    while depth == 0:
        with lock:
            table[len(table) % 1000] = [str(len(table))] * 10
    return work(depth - 1)

for depth in range(3):
    threading.Thread(target=work, args=(depth,), daemon=True).start()
print("ready", flush=True)
work(4)
"""


def gdb(*words: object, commands: list[str]) -> str:
    """What gdb prints on stdout."""
    options = [str(GDB), "-nx", "-batch", "-iex", "set debuginfod enabled off", "-iex", "set pagination off"]
    for command in commands:
        options += ["-ex", command]
    done = subprocess.run(
        [*options, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GDB_S,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    assert "too small" not in done.stderr, done.stderr  # what gdb says of a note that it does not take
    return done.stdout


def by_thread(text: str) -> dict[int, str]:
    """The output of `thread apply all` by LWP."""
    parts = re.split(r"^Thread \d+ \(.*?LWP (\d+)\)[^\n]*:\n", text, flags=re.MULTILINE)
    return {int(lwp): output.strip() for lwp, output in zip(parts[1::2], parts[2::2], strict=True)}


def looked_at(*words: object) -> dict[str, dict[int, str]]:
    """What gdb says of all threads, by kind of state."""
    commands = []
    for name, command in PER_THREAD.items():
        commands += [f"echo \\n=== {name}\\n", f"thread apply all {command}"]
    text = gdb(*words, commands=[*commands, "echo \\n=== end\\n"])
    sections = re.split(r"^=== (.*)\n", text, flags=re.MULTILINE)
    return {
        name: by_thread(output) for name, output in zip(sections[1::2], sections[2::2], strict=True) if name != "end"
    }


@contextmanager
def threads_program(_directory: Path) -> Iterator[int]:
    with Target.spawn("threads") as target:
        yield target.pid


@contextmanager
def memory_program(directory: Path) -> Iterator[int]:
    with memory_target(directory) as target:
        yield target.pid


@contextmanager
def python_program(_directory: Path) -> Iterator[int]:
    with started([shutil.which("python3") or "python3", "-c", PYTHON]) as process:
        yield process.pid


@contextmanager
def redis_program(directory: Path) -> Iterator[int]:
    if SERVER is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory))
    with running(SERVER, "--port", str(port), *options, log=directory / "server.log") as process:
        poll_until(lambda: answers(port), 30, "redis-server to answer")
        yield process.pid


# A program, and functions that its backtraces must show: gdb finds symbols only if all else is right.
PROGRAMS = {
    "threads": (threads_program, ("spin_outer", "wait_outer", "read_outer", "sleep_long", "command_loop")),
    "memory": (memory_program, ("main", "next_command")),
    "python": (python_program, ("PyEval", "start_thread")),
    "redis": (redis_program, ("epoll_wait", "start_thread")),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_gdb_shows_the_same_of_the_core_and_of_the_process(name: str, tmp_path: Path) -> None:
    program, functions = PROGRAMS[name]
    checkpoint, core = tmp_path / "checkpoint", tmp_path / "core"
    with program(tmp_path) as pid:
        executable = Path(f"/proc/{pid}/exe").readlink()
        tids = {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
        predump("dump", "-p", pid, "-D", checkpoint, "--leave-stopped")
        done = predump("export", checkpoint, "--to", "core", "-o", core, "--json")
        assert number(done.result, "threads") == len(tids)
        assert (number(done.result, "pid"), number(done.result, "round")) == (pid, 2)
        assert number(done.result, "bytes") == core.stat().st_size
        check_memory(pid, Core(core))

        of_core = looked_at(executable, core)
        of_process = looked_at(executable, pid)
        poll_until(lambda: is_stopped(pid), COMMAND_S, "gdb to leave the process as it was")
    assert set(of_core) == set(PER_THREAD)
    assert set(of_core["general"]) == tids
    assert not re.findall("<unavailable>|warning", str(of_core))
    for kind, threads in of_process.items():
        for tid, output in threads.items():
            assert of_core[kind][tid] == output, f"{kind} of thread {tid}"
    backtraces = "\n".join(of_core["backtrace"].values())
    assert [name for name in functions if name not in backtraces] == []


def check_memory(pid: int, core: Core) -> None:
    """Every byte of every segment against the process, and every mapping against the segments."""
    mapped = {one.start_addr: one for one in read_maps(pid)}
    at = 0
    with ProcessMemory(pid) as memory:
        checker = MemoryChecker(memory, core)
        for segment in core.loads:
            if segment.start_addr in mapped:
                one = mapped.pop(segment.start_addr)
                flags = sum(flag for flag, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in one.perms)
                at = segment.start_addr
            assert segment.start_addr == at, f"{at:#x}-{segment.start_addr:#x} is in no segment"
            assert segment.flags == flags
            if not one.is_exempt:
                checker.check(segment, one)
            at = -1 if segment.end_addr == one.end_addr else segment.end_addr
    assert not mapped, f"not in the core: {mapped}"
    assert checker.pages_of_core
    assert checker.pages_of_files


class MemoryChecker:
    """Compares segments of a core with a process; holes of anonymous memory are not read, which would fill them."""

    def __init__(self, memory: ProcessMemory, core: Core) -> None:
        self._memory = memory
        self._core = core
        self._files = {(file.start_addr, file.end_addr): file for file in core.mapped_files()}
        self.pages_of_core = 0
        self.pages_of_files = 0

    def check(self, segment: Segment, mapping: Mapping) -> None:
        if segment.file_bytes:
            assert segment.file_bytes == segment.memory_bytes
            if not mapping.is_private_anonymous:
                self._check_bytes(segment, segment.start_addr, segment.end_addr)
                return
            at = segment.start_addr
            for start_addr, end_addr in self._core.extents(segment):
                self._check_hole(at, start_addr)
                self._check_bytes(segment, start_addr, end_addr)
                at = end_addr
            self._check_hole(at, segment.end_addr)
        elif mapping.is_private_anonymous:
            runs = self._memory.populated(segment.start_addr, segment.end_addr)
            assert all(guard for _, _, guard in runs), f"{segment} has bytes in the process"
        else:
            file = self._files[mapping.start_addr, mapping.end_addr]
            offset = file.offset_bytes + segment.start_addr - mapping.start_addr
            with Path(file.path).open("rb") as opened:
                opened.seek(offset)
                content = opened.read(segment.memory_bytes)
            content += bytes(-len(content) % PAGE_BYTES)  # what lies behind the last page cannot be read at all
            self.pages_of_files += len(content) // PAGE_BYTES
            for position in range(0, len(content), PIECE_BYTES):
                self._compare(segment.start_addr + position, content[position : position + PIECE_BYTES])

    def _check_bytes(self, segment: Segment, start_addr: int, end_addr: int) -> None:
        for addr in range(start_addr, end_addr, PIECE_BYTES):
            content = self._core.read(segment, addr, min(addr + PIECE_BYTES, end_addr))
            self.pages_of_core += len(content) // PAGE_BYTES
            self._compare(addr, content)

    def _check_hole(self, start_addr: int, end_addr: int) -> None:
        for run_addr, run_end_addr, guard in self._memory.populated(start_addr, end_addr):
            assert not guard, f"the core has zeros for the guard page {run_addr:#x}"
            self._compare(run_addr, bytes(run_end_addr - run_addr))

    def _compare(self, addr: int, expected: bytes) -> None:
        actual = self._memory.read(addr, addr + len(expected))
        assert actual == expected, f"the core differs from the process in {addr:#x}-{addr + len(expected):#x}"


def test_readelf_finds_no_fault(tmp_path: Path) -> None:
    checkpoint, core = tmp_path / "checkpoint", tmp_path / "core"
    with Target.spawn("threads") as target:
        predump("dump", "-p", target.pid, "-D", checkpoint)
    predump("export", checkpoint, "--to", "core", "-o", core)
    done = subprocess.run(
        [str(READELF), "--headers", "--notes", "--wide", str(core)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert not re.findall("(?i)warning|error|corrupt|unknown|invalid", done.stdout), done.stdout
    for note in ("PRSTATUS", "SIGINFO", "FPREGSET", "X86_XSTATE"):
        assert done.stdout.count(f"NT_{note} ") == 5, note
    for note in ("PRPSINFO", "AUXV", "FILE"):
        assert done.stdout.count(f"NT_{note} ") == 1, note


def test_a_torn_core_has_memory_and_symbols_but_no_registers(tmp_path: Path) -> None:
    checkpoint, core = tmp_path / "checkpoint", tmp_path / "core"
    with Target.spawn("threads") as target:
        executable = Path(f"/proc/{target.pid}/exe").readlink()
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
        predump("detach", "-p", target.pid)
    refused = predump("export", checkpoint, "--to", "core", "-o", core, expect=2)
    assert "--torn" in refused.stderr
    assert list(tmp_path.iterdir()) == [checkpoint]
    done = predump("export", checkpoint, "--to", "core", "-o", core, "--torn")
    assert "torn" in done.stdout
    assert any(note.owner == "predump" and note.content.startswith(b"torn") for note in Core(core).notes())
    assert "= 42" in gdb(executable, core, commands=["print known_answer"])
    assert "unavailable" in gdb(executable, core, commands=["info registers rip"])

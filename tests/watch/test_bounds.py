"""What a watch takes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumper import WriteWatch, writewatch
from dumper.errors import KernelFeatureMissing, PermissionDenied, TargetBusy, TargetGone, TargetUntraceable
from dumper.kernel import uffd
from dumper.kernel.pages import Scanner, Span, SpanTable
from dumper.proc.smaps import parse_smaps_flags
from tests.harness import NOBODY, REPO, Target, is_untouched, poll_until, predump
from tests.kernel.child import PAGE, Child, Memory, running_child
from tests.watch.place import Place, pages, told

FAILURE = 1
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@pytest.fixture
def child() -> Iterator[Child]:
    with running_child() as running:
        yield running


# ---- regions ----


def test_regions_are_widened_to_whole_pages_and_united() -> None:
    memory = Memory()
    addr = memory.map(20)
    wanted = [(addr + 9 * PAGE - 1, 2), (addr + 100, 1), (addr + 50, PAGE), (addr + 15 * PAGE, PAGE)]
    with WriteWatch.of_self(wanted) as watch:
        found = [((start - addr) // PAGE, (end - addr) // PAGE, size) for start, end, size in watch.regions]
        assert found == [(0, 2, PAGE), (8, 10, PAGE), (15, 16, PAGE)]
        memory.touch(addr, range(20))
        assert told(watch, addr) == [0, 1, 8, 9, 15]
    memory.unmap(addr, range(20))


@pytest.mark.parametrize("kind", ["mmap", "bytearray", "ctypes", "memoryview"])
def test_objects_with_memory(kind: str) -> None:
    size_bytes = 64 * PAGE
    buffer: mmap.mmap | bytearray | memoryview | ctypes.Array[ctypes.c_char]
    if kind == "mmap":
        buffer = mmap.mmap(-1, size_bytes, flags=PRIVATE)
    elif kind == "bytearray":
        buffer = bytearray(size_bytes)
    elif kind == "ctypes":
        buffer = (ctypes.c_char * size_bytes)()
    else:
        buffer = memoryview(mmap.mmap(-1, size_bytes, flags=PRIVATE))[8 * PAGE :]
    memory = memoryview(buffer).cast("B")
    page_addr = (ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 20 * PAGE) // PAGE * PAGE
    with WriteWatch.of_self([buffer]) as watch:
        start_addr, end_addr, _ = watch.regions[0]
        assert end_addr - start_addr >= len(memory)
        memory[20 * PAGE : 21 * PAGE] = b"x" * PAGE
        # Something else may lie in the first and the last page, and be written.
        inside = [page for page in told(watch, page_addr) if -10 < page < 10]
        assert inside in ([0], [0, 1]), "one page, or two where the object does not begin with a page"
        assert not set(range(-10, 10)) & set(told(watch, page_addr))


def test_an_object_keeps_its_memory_while_it_is_watched() -> None:
    buffer = bytearray(4 * PAGE)
    watch = WriteWatch.of_self([buffer])
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    watch.close()
    buffer.extend(b"more")


def test_no_regions_make_no_sense() -> None:
    for regions in ([], [(PAGE, 0)], [(-PAGE, PAGE)], [b""]):
        with pytest.raises(ValueError, match="region"):
            WriteWatch.of_self(regions)


# ---- whose memory ----


def test_the_own_pid_is_the_own_memory() -> None:
    memory = Memory()
    addr = memory.map(2)
    with WriteWatch.of_process(os.getpid(), [(addr, PAGE)]) as watch:
        memory.touch(addr, [0])
        assert told(watch, addr) == [0]


def test_any_thread_may_use_it(place: Place) -> None:
    addr = place.memory.map(4)
    found: list[list[int]] = []
    with place.watch(addr, 4) as watch:
        place.memory.touch(addr, [2])
        thread = threading.Thread(target=lambda: found.append(told(watch, addr)))
        thread.start()
        thread.join()
    assert found == [[2]]


@contextmanager
def forked(work: object) -> Iterator[int]:
    """A fork of this process that runs `work` and exits with 0, or with 1 if it raised; yields its exit code."""
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            os._exit(1)
        os._exit(0)
    gc.unfreeze()
    _, status = os.waitpid(pid, 0)
    yield os.waitstatus_to_exitcode(status)


def test_a_forked_child_can_neither_use_nor_disturb_it(place: Place) -> None:
    addr = place.memory.map(4)
    place.memory.touch(addr, [0])
    with place.watch(addr, 4) as watch:

        def in_child() -> None:
            for use in (watch.written, watch.reset):
                with pytest.raises(RuntimeError, match="after a fork"):
                    use()
            watch.close()
            watch.close()

        with forked(in_child) as code:
            assert code == 0
        place.memory.touch(addr, [0])
        assert told(watch, addr) == [0]
        if not place.is_own:
            with pytest.raises(TargetBusy):
                WriteWatch.of_process(place.pid, [(addr, PAGE)])


def test_children_of_the_watched_process_are_not_watched() -> None:
    memory = Memory()
    addr = memory.map(4)
    memory.touch(addr, range(4))
    with WriteWatch.of_self([(addr, 4 * PAGE)]) as watch:
        with forked(lambda: memory.touch(addr, [1])) as code:
            assert code == 0
        assert told(watch, addr) == []
        memory.touch(addr, [2])
        assert told(watch, addr) == [2], "what is copied on write is told of the parent"


# ---- ends ----


def test_a_process_that_ends(child: Child) -> None:
    addr = child.map(4)
    with WriteWatch.of_process(child.pid, [(addr, PAGE)]) as watch:
        child.end()
        for use in (watch.written, watch.reset):
            with pytest.raises(TargetGone, match="has ended, or called exec"):
                use()


def test_a_process_that_calls_exec(child: Child) -> None:
    addr = child.map(4)
    with WriteWatch.of_process(child.pid, [(addr, PAGE)]) as watch:
        child.send("exec", "/bin/sleep", "60")
        poll_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", 30, "the exec")
        with pytest.raises(TargetGone, match="has ended, or called exec"):
            watch.written()


def test_no_process() -> None:
    with pytest.raises(TargetGone):
        WriteWatch.of_process(1 << 22, [(PAGE, PAGE)])


def _vmas(pid: int, addr: int, n_pages: int) -> list[tuple[int, int, str]]:
    text = Path(f"/proc/{pid}/smaps").read_bytes()
    return [vma for vma in parse_smaps_flags(text) if vma[0] < addr + n_pages * PAGE and vma[1] > addr]


def test_closing_leaves_the_process_as_it_was(place: Place) -> None:
    addr = place.memory.map(20)
    place.memory.touch(addr, range(10))
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    before = _vmas(place.pid, addr, 20)
    watch = place.watch(addr + 3 * PAGE, 5)
    assert any("uw" in flags.split() for _, _, flags in _vmas(place.pid, addr, 20))
    watch.close()
    watch.close()
    assert _vmas(place.pid, addr, 20) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    assert is_untouched(place.pid)
    with pytest.raises(ValueError, match="closed"):
        watch.written()
    with place.watch(addr, 20) as again:
        assert told(again, addr) == []


def test_a_refused_watch_leaves_nothing(place: Place) -> None:
    addr = place.memory.map(4)
    place.memory.unmap(addr, range(3, 4))
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    before = _vmas(place.pid, addr, 4)
    with pytest.raises(writewatch.NotWatchable):
        place.watch(addr, 4)
    assert _vmas(place.pid, addr, 4) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


# ---- others ----


def test_two_watches_of_other_memory_get_along() -> None:
    memory = Memory()
    addr = memory.map(8)
    with WriteWatch.of_self([(addr, 4 * PAGE)]) as one, WriteWatch.of_self([(addr + 4 * PAGE, 4 * PAGE)]) as other:
        memory.touch(addr, [1, 6])
        assert told(one, addr) == [1]
        assert told(other, addr) == [6]


def test_a_second_watch_of_the_same_memory_is_refused(place: Place) -> None:
    addr = place.memory.map(8)
    with place.watch(addr, 8) as watch:
        with pytest.raises(TargetUntraceable if place.is_own else TargetBusy):
            place.watch(addr + 7 * PAGE, 1)
        place.memory.touch(addr, [7])
        assert told(watch, addr) == [7], "the first one goes on"


def test_a_process_with_a_userfaultfd_of_its_own_is_refused(child: Child) -> None:
    addr = child.map(4)
    child.track(addr, 4)
    with pytest.raises(TargetUntraceable, match="uses userfaultfd itself"):
        WriteWatch.of_process(child.pid, [(addr, PAGE)])


def test_memory_that_comes_under_another_userfaultfd_is_an_error() -> None:
    memory = Memory()
    addr = memory.map(4)
    fd = uffd.create()
    uffd.enable(fd)
    with WriteWatch.of_self([(addr, 4 * PAGE)]) as watch:
        memory.map(1, at=addr)
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            assert uffd.register(fd, pagemap.fileno(), SpanTable([Span(addr, addr + PAGE)])) == [0]
        with pytest.raises(TargetUntraceable, match="another userfaultfd"):
            watch.written()
        os.close(fd)
        memory.touch(addr, [0, 3])
        assert told(watch, addr) == [0, 3]


@pytest.mark.usefixtures("targets")
def test_commands_and_a_watch_keep_off_each_other(tmp_path: Path) -> None:
    with Target.spawn("idle", 1, 1, 0) as target:
        stack = _stack(target.pid)
        with WriteWatch.of_process(target.pid, [stack]):
            busy = predump("pre-dump", "-p", target.pid, "-D", tmp_path / "ck", expect=FAILURE)
            assert "another predump is working" in busy.stderr
        predump("pre-dump", "-p", target.pid, "-D", tmp_path / "ck")
        with pytest.raises(TargetBusy, match="tracked") as caught:
            WriteWatch.of_process(target.pid, [stack])
        assert "predump detach" in caught.value.hint
        predump("detach", "-p", target.pid)
        with WriteWatch.of_process(target.pid, [stack]) as watch:
            watch.reset()
        predump("dump", "-p", target.pid, "-D", tmp_path / "ck")
        target.check()


def _stack(pid: int) -> tuple[int, int]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    start, end = (int(word, 16) for line in lines if "[stack]" in line for word in line.split()[0].split("-"))
    return start, end - start


# ---- privileges and kernels ----

UNPRIVILEGED = """
import mmap, os, sys
from dumper import WriteWatch
memory = mmap.mmap(-1, 4 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
reader, writer = os.pipe()
with WriteWatch.of_self([memory]) as watch:
    memory[0] = 1
    os.write(writer, b"x" * 4096)
    os.readv(reader, [memoryview(memory)[2 * 4096 : 3 * 4096]])
    start_addr = watch.regions[0].start_addr
    print([(start - start_addr) // 4096 for start, end in watch.written()])
"""


def _python(words: list[str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*words, sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_own_memory_needs_no_privilege() -> None:
    """The kernel's writes are told as well, although the userfaultfd is one for user mode only."""
    done = _python([*NOBODY], UNPRIVILEGED)
    assert done.stdout == "[0, 2]\n", done.stderr


def test_the_memory_of_others_does(child: Child) -> None:
    addr = child.map(1)
    code = f"from dumper import WriteWatch\nWriteWatch.of_process({child.pid}, [({addr}, 4096)])"
    done = _python([*NOBODY], code)
    assert "dumper.errors.PermissionDenied" in done.stderr, done.stderr


def _failing(number: int) -> object:
    def fail(*_: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("module", "name", "number", "expected"),
    [
        (uffd, "create", errno.ENOSYS, KernelFeatureMissing),
        (uffd, "create", errno.EPERM, PermissionDenied),
        (uffd, "enable", errno.EINVAL, KernelFeatureMissing),
        (writewatch, "Scanner", errno.ENOTTY, KernelFeatureMissing),
    ],
)
def test_what_the_kernel_lacks_or_forbids(
    module: object, name: str, number: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, _failing(number))
    memory = Memory()
    with pytest.raises(expected):
        WriteWatch.of_self([(memory.map(1), PAGE)])


# ---- interruptions ----


def test_what_an_interrupted_reset_did_not_tell_the_next_call_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    addr = place.memory.map(10)
    place.memory.touch(addr, range(6))
    with place.watch(addr, 10) as watch:
        place.memory.touch(addr, [1, 2])
        place.memory.advise(addr, range(4, 5), mmap.MADV_DONTNEED)
        scan = Scanner.all_runs

        def interrupted(self: Scanner, *args: object, **named: object) -> None:
            scan(self, *args, **named)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Scanner, "all_runs", interrupted)
            with pytest.raises(KeyboardInterrupt):
                watch.written(reset=True)
        found = told(watch, addr, reset=False)
        assert {1, 2, 4} <= set(found)
        assert told(watch, addr) == found
        assert told(watch, addr) == [4], "it is gone, and nobody has looked at it since"


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = _python([], "import sys, dumper; print(*(m for m in sys.modules if m.startswith(('dumper', 'cffi'))))")
    assert done.stdout == "dumper\n", done.stderr


def test_names_that_the_package_does_not_have() -> None:
    done = _python([], "from dumper import nonsense")
    assert "ImportError" in done.stderr


def test_pages_tells_what_is_out_of_order() -> None:
    with pytest.raises(AssertionError):
        pages(0, [(0, PAGE), (PAGE, 2 * PAGE)])

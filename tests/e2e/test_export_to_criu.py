"""Dumps of real processes as CRIU's image files: crit reads them, and their memory is what predump itself reads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.criu.values import VmaStatus
from formats.layout import RunKind
from formats.manifest import Manifest
from formats.opening import open_images
from tests.criuimages import PAGE_BYTES, Memory, crit, decode, images_of, needs_crit
from tests.format.images import PID, ImageRound, page_of, write_chain
from tests.harness import Event, Target, predump
from tests.schemas import check_event

pytestmark = pytest.mark.usefixtures("targets")


def dumped(pid: int, checkpoint: Path) -> Manifest:
    """A dump on top of a pre-dump."""
    assert predump("pre-dump", "-t", pid, "-D", checkpoint).returncode == 0
    done = predump("dump", "-t", pid, "-D", checkpoint, "--leave-stopped")
    assert done.returncode == 0, done
    return Checkpoint.open(checkpoint).round().manifest


def exported(checkpoint: Path, out: Path, *options: str) -> Event:
    done = predump("export", checkpoint, "--to", "criu", "-o", out, *options, "--json")
    assert done.returncode == 0, done
    check_event(done.result)
    return done.result


def assert_same_memory(checkpoint: Path, directory: Path, manifest: Manifest) -> None:
    """All that the round has of its processes is in the images, and nothing else; but pages of files mapped shared."""
    opened = Checkpoint.open(checkpoint)
    for process in manifest.processes:
        held = Memory(directory, process.pid)
        assert [(vma.start_addr, vma.end_addr) for vma in held.vmas] == [
            (vma.start_addr, vma.end_addr) for vma in process.vmas
        ]
        seen: set[int] = set()
        with MemoryView(opened, None, process.pid) as view:
            for vma in held.vmas:
                if vma.status & VmaStatus.FILE_SHARED:
                    continue
                for start_addr, end_addr, content in view.chunks(vma.start_addr, vma.end_addr):
                    addrs = range(start_addr, end_addr, PAGE_BYTES) if content is not None else ()
                    pages = b"".join(held.page(vma, addr) or b"" for addr in addrs)
                    assert content in (None, pages), f"{start_addr:#x}-{end_addr:#x} of process {process.pid}"
                    seen.update(addrs)
        assert len(held.private) > 10
        assert held.private.keys() <= seen


def assert_reads_alike(checkpoint: Path, directory: Path, manifest: Manifest) -> None:
    """What predump opens as CRIU's images has the memory of the checkpoint they were made of."""
    ours, theirs = open_images(checkpoint), open_images(directory)
    for process in manifest.processes:
        with MemoryView(ours, None, process.pid) as before, MemoryView(theirs, None, process.pid) as after:
            for vma in process.vmas:
                named = (vma.is_shared and vma.kind == "file") or vma.kind == "special"
                for start_addr, end_addr, content in before.chunks(vma.start_addr, vma.end_addr):
                    if content is not None and not named:
                        assert after.read(start_addr, end_addr - start_addr) == content


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A checkpoint of a tree, and what it says of its dump."""
    directory = tmp_path_factory.mktemp("tree")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TREE_FILE", str(directory / "shared-file"))
        with Target.spawn("tree", 2) as target:
            return directory / "checkpoint", dumped(target.pid, directory / "checkpoint")


@pytest.mark.parametrize("way", [[], ["--flat"]], ids=["chain", "flat"])
def test_memory_of_a_tree(dump: tuple[Path, Manifest], tmp_path: Path, way: list[str]) -> None:
    checkpoint, manifest = dump
    result = exported(checkpoint, tmp_path / "out", *way)
    assert (result["processes"], result["rounds"]) == (3, 1 if way else 2)
    images = Path(str(result["images"]))
    assert_same_memory(checkpoint, images, manifest)
    assert_reads_alike(checkpoint, images, manifest)


@needs_crit
def test_crit_reads_all_of_a_tree(dump: tuple[Path, Manifest], tmp_path: Path) -> None:
    checkpoint, manifest = dump
    directory = Path(str(exported(checkpoint, tmp_path / "out")["images"]))
    entries = decode(*images_of(directory))
    for earlier in decode(*images_of(directory.parent / "0001")).values():
        assert earlier[0].keys() == {"pages_id"}
        assert len(earlier) > 1
    processes = {process.pid: process for process in manifest.processes}
    assert {item["pid"]: item["ppid"] for item in entries["pstree.img"]} == {
        pid: 0 if pid == manifest.root_pid else manifest.root_pid for pid in processes
    }
    for process in processes.values():
        [memory] = entries[f"mm-{process.pid}.img"]
        assert [(vma["start"], vma["end"]) for vma in memory["vmas"]] == [
            (vma.start_addr, vma.end_addr) for vma in process.vmas
        ]
    ps = crit("x", directory, "ps").splitlines()
    assert ps[0].split() == ["PID", "PGID", "SID", "COMM"]
    assert {int(line.split()[0]): line.split()[3] for line in ps[1:]} == dict.fromkeys(processes, "tree")
    fds = crit("x", directory, "fds")
    assert fds.count("cwd: ") == len(processes)
    assert fds.count("0: pipe[") == len(processes)
    mems = crit("x", directory, "mems")
    assert mems.count("exe  ") == len(processes)
    for place in ("/bin/tree", "shmem[", "[vdso]", "[vsyscall] *"):
        assert place in mems
    assert '"PSTREE"' in crit("show", directory / "pstree.img")


@needs_crit
def test_crit_reads_the_state_of_threads(checkpoint: Path, tmp_path: Path) -> None:
    with Target.spawn("state-threads", "seccomp") as target:
        manifest = dumped(target.pid, checkpoint)
    directory = Path(str(exported(checkpoint, tmp_path / "out", "--flat")["images"]))
    images = decode(*images_of(directory))
    [process] = manifest.processes
    assert process.state is not None
    assert len(process.threads) > 1
    for thread in process.threads:
        [core] = images[f"core-{thread.tid}.img"]
        registers = core["thread_info"]["gpregs"]
        assert registers["sp"] == thread.registers["rsp"]
        assert registers["fs_base"] == thread.registers["fs_base"]
        assert registers["ip"] in {thread.registers["rip"], thread.registers["rip"] - 2}
        assert core["thread_info"]["fpregs"]["mxcsr"] == int.from_bytes(thread.fpregs[24:28], "little")
        assert core["thread_info"]["clear_tid_addr"] == thread.clear_child_tid_addr
        rest = core["thread_core"]
        assert rest["futex_rla"] == thread.robust_list_addr
        assert rest["comm"] == thread.name
        assert rest["blk_sigset"] == thread.signal_mask
        assert thread.scheduling is not None
        assert (rest["sched_policy"], rest["sched_nice"]) == (thread.scheduling.policy, thread.scheduling.nice)
        assert ("seccomp_filter" in rest) == bool(thread.seccomp_filters)
    [leader] = images[f"core-{target.pid}.img"]
    limits = [{"cur": limit.soft, "max": limit.hard} for limit in process.state.limits]
    assert leader["tc"]["rlimits"]["rlimits"] == limits
    [filters] = images["seccomp.img"]
    assert len(filters["seccomp_filters"]) == len(process.state.seccomp_filters) > 0


def test_what_is_left_out_is_said(checkpoint: Path, tmp_path: Path) -> None:
    with Target.spawn("descriptors", tmp_path) as target:
        dumped(target.pid, checkpoint)
    result = exported(checkpoint, tmp_path / "json", "--flat")
    left_out = result["left_out"]
    assert isinstance(left_out, list)
    whats = " ".join(str(item["what"]) for item in left_out)
    for kind in ("socket", "epoll", "timerfd", "signalfd", "inotify", "memfd", "terminal", "lock"):
        assert kind in whats
    said = predump("export", checkpoint, "--to", "criu", "-o", tmp_path / "text", "--flat")
    assert said.returncode == 0
    assert "Left out:" in said.stdout
    assert "socket" in said.stdout


def test_what_cannot_be_done_is_said(checkpoint: Path, tmp_path: Path) -> None:
    write_chain(checkpoint, ImageRound({0: page_of(1)}))
    for options, problem in (
        ([], "pre-dump round"),
        (["--round", "9"], "no round 9"),
        (["--pid", "1"], "--pid means nothing"),
        (["--force"], "--force means nothing"),
    ):
        done = predump("export", checkpoint, "--to", "criu", "-o", tmp_path / "out", *options, expect=2)
        assert problem in done.stderr
        assert not (tmp_path / "out").exists()
    images = tmp_path / "images"
    predump("export", checkpoint, "--to", "criu", "-o", images, "--torn")
    done = predump("export", images / "0001", "--to", "criu", "-o", tmp_path / "out", expect=2)
    assert "CRIU's images already" in done.stderr


def test_a_chain_may_have_more_rounds_than_files_may_be_open(checkpoint: Path, tmp_path: Path) -> None:
    parent = RunKind.PARENT
    n_rounds = 30
    rounds = [ImageRound(dict.fromkeys(range(k), parent) | {k: page_of(k)}) for k in range(n_rounds)]
    write_chain(checkpoint, *rounds)
    few = ("prlimit", "--nofile=40:1000", sys.executable)
    for form in ("criu", "core"):
        flat = ["--flat"] if form == "criu" else []
        predump("export", checkpoint, "--to", form, "-o", tmp_path / form, "--torn", *flat, prefix=few)
    assert len(Memory(tmp_path / "criu", PID).private) == n_rounds

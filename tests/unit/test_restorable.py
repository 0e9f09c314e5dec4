"""What stands in the way of a restore: each rule, on a manifest that is sound but for that."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from formats.manifest import Gap, Manifest, Missing, Process, RoundKind, Segment, Vma
from formats.openfiles import Eventfd, InotifyWatch, OpenFile, OpenFileKind, Pipe, Terminal
from formats.processstate import FileLock, Namespace
from formats.restorable import verdict_on
from formats.restorable.openfiles import STOPS
from tests.format.images import HOST, PID, ImageObject, ImageRound, process_of, vma_of
from tests.format.samples import OPEN_FILE
from tests.restorables import PROCESS, SOCKET, STATE, THREAD, child_of, dump_of, file_of, with_state, with_thread
from tests.states import zombie_of


def stops(manifest: Manifest) -> list[str]:
    return [f"{item.what}: {item.reason}" for item in verdict_on(manifest).obstacles]


def differs(manifest: Manifest) -> list[str]:
    verdict = verdict_on(manifest)
    assert verdict.is_restorable, verdict.obstacles
    return [f"{item.what}: {item.reason}" for item in verdict.warnings]


def test_a_plain_process_comes_back() -> None:
    verdict = verdict_on(dump_of())
    assert (verdict.is_restorable, verdict.obstacles, verdict.warnings) == (True, [], [])


def test_a_pre_dump_does_not() -> None:
    (text,) = stops(dump_of(kind=RoundKind.PRE_DUMP))
    assert "pre-dump" in text


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (replace(PROCESS, state=None), "state"),
        (with_state(layout=None), "boundaries of its memory"),
        (replace(PROCESS, threads=[replace(THREAD, tid=PID + 1)]), "main thread has ended"),
        (with_thread(registers={}), "registers"),
        (with_thread(registers={"cs": 0x23}), "32-bit"),
        (with_thread(seccomp_mode=1), "strict seccomp"),
        (with_thread(seccomp_mode=2), "filters could not be read"),
        (with_state(prctl={"xcomp_perm": 0x602E7}), "AMX"),
        (with_state(shared={"memory": 77}), "shared memory: process 77"),
        (with_state(locks=[FileLock(fd=3, kind="odd", mode="read", start=0, end=-1)]), "odd of descriptor 3"),
        (replace(PROCESS, vmas=[vma_of(0, 1, "device", "/dev/dri/card0")]), "device"),
        (replace(PROCESS, vmas=[vma_of(0, 1, "device", "/secretmem (deleted)")]), "memfd_secret"),
        (replace(PROCESS, vmas=[vma_of(0, 1, "special", "/[aio]")]), "asynchronous I/O"),
        (replace(PROCESS, vmas=[vma_of(0, 1, "special", "anon_inode:[io_uring]")]), "io_uring"),
        (replace(PROCESS, vmas=[replace(vma_of(0, 1), flags="rd wr ss")]), "shadow stack"),
        (replace(PROCESS, vmas=[vma_of(0, 1, "file", "/tmp/x (deleted)")]), "no name leads to it"),
        (replace(PROCESS, unreadable=[Gap(start_addr=0, end_addr=4096, reason="odd")]), "memory 0x0-0x1000: odd"),
        (replace(PROCESS, missing=[Missing(what="handlers of signals 10", reason="it did not tell")]), "handlers"),
        (replace(PROCESS, missing=[Missing(what="whatever comes later", reason="unknown")]), "whatever comes later"),
    ],
)
def test_what_stops_a_restore(process: Process, words: str) -> None:
    (text,) = stops(dump_of(process))
    assert words in text


@pytest.mark.parametrize(
    ("what", "reason", "is_told"),
    [
        ("environment", "could not be read", False),
        ("thread 7", "it stands inside the vdso", True),
        ("umask of thread 7", "it differs from that of the process, which alone is recorded", True),
        ("descriptor 7 (socket:[1])", "3 connections waiting to be accepted are not captured", True),
        ("events of descriptor 7 (anon_inode:inotify)", "those not read yet are not captured", True),
    ],
)
def test_what_is_missing_but_can_be_borne(what: str, reason: str, is_told: bool) -> None:
    manifest = dump_of(replace(PROCESS, missing=[Missing(what=what, reason=reason)]))
    assert differs(manifest) == ([f"{what}: {reason}"] if is_told else [])


def test_messages_of_unix_sockets_stop_and_datagrams_of_the_network_do_not() -> None:
    what = "queued messages of descriptor 7 (socket:[1])"
    udp = Missing(what=what, reason="they cannot be read without being taken out")
    unix = Missing(what=what, reason="only the first can be seen without being taken out")
    assert len(differs(dump_of(replace(PROCESS, missing=[udp])))) == 1
    assert len(stops(dump_of(replace(PROCESS, missing=[unix])))) == 1


def test_every_kind_of_file_has_a_rule() -> None:
    assert set(STOPS) == set(OpenFileKind)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (file_of(OpenFileKind.OTHER, "anon_inode:[io_uring]"), "this kind"),
        (file_of(OpenFileKind.PIDFD, "anon_inode:[pidfd]", pid=1), "process 1, which"),
        (file_of(OpenFileKind.NAMESPACE, "net:[1]", inode=1), "no process of the dump"),
        (file_of(OpenFileKind.EPOLL, "anon_inode:[eventpoll]"), "its state"),
        (file_of(OpenFileKind.DEVICE, "/dev/fuse", special="0a:e5", mode=0o020600), "driver"),
        (replace(file_of(OpenFileKind.FILE), deleted=True), "content"),
        (replace(file_of(OpenFileKind.DIRECTORY), deleted=True), "found again"),
        (replace(file_of(OpenFileKind.FILE, flags=0o10000000), deleted=True), "found again"),
        (file_of(OpenFileKind.MEMFD, "/memfd:x"), "its state"),
        (file_of(OpenFileKind.SOCKET, "socket:[1]"), "its state"),
        (file_of(OpenFileKind.SOCKET, "socket:[1]", socket=replace(SOCKET, family=17)), "family 17"),
        (file_of(OpenFileKind.SOCKET, "socket:[1]", socket=replace(SOCKET, type=3, protocol=1)), "type 3"),
        (file_of(OpenFileKind.SOCKET, "socket:[1]", socket=replace(SOCKET, protocol=262)), "protocol 262"),
    ],
)
def test_open_files_that_stop_a_restore(item: OpenFile, words: str) -> None:
    (text,) = stops(dump_of(files=(item,)))
    assert text.startswith("descriptor 3 (")
    assert words in text


@pytest.mark.parametrize(
    "item",
    [
        file_of(OpenFileKind.FILE),
        file_of(OpenFileKind.DIRECTORY),
        file_of(OpenFileKind.DEVICE, "/dev/null", special="01:03", mode=0o020666),
        file_of(OpenFileKind.EVENTFD, eventfd=Eventfd(count=0, semaphore=False)),
        file_of(OpenFileKind.SOCKET, "socket:[1]", socket=SOCKET),
        OPEN_FILE,
    ],
)
def test_open_files_that_come_back(item: OpenFile) -> None:
    objects = [ImageObject(1, {}, 4096, "memfd").record()]
    assert differs(dump_of(files=(item,), objects=objects)) == []


def test_the_other_end_of_a_pipe() -> None:
    reader, writer = (file_of(OpenFileKind.PIPE, "pipe:[1]", flags=flags) for flags in (0, 1))
    pipe = Pipe(device=reader.device, inode=reader.inode, capacity_bytes=4096, content=b"")
    assert differs(dump_of(files=(reader, replace(writer, id=9)), pipes=[pipe])) == []
    assert "other end" in differs(dump_of(files=(reader,), pipes=[pipe]))[0]
    assert differs(dump_of(files=(reader,), pipes=[replace(pipe, has_writer=False)])) == []  # nobody has it
    assert differs(dump_of(files=(replace(reader, flags=2),), pipes=[pipe])) == []


def test_the_other_end_of_a_unix_socket() -> None:
    one = replace(SOCKET, family=socket.AF_UNIX, protocol=0, state="established", peer_inode=9)
    first = file_of(OpenFileKind.SOCKET, "socket:[8]", socket=one)
    second = replace(first, id=9, inode=9, socket=replace(one, peer_inode=first.inode))
    told = differs(dump_of(files=(first, second)))
    assert len(told) == 2
    assert all("SO_PEERCRED" in text for text in told)
    assert "other end" in differs(dump_of(files=(first,)))[0]
    syslog = replace(one, type=socket.SOCK_DGRAM, peer_sockaddr=b"\x01\x00/dev/log\x00")
    assert "anew" in differs(dump_of(files=(replace(first, socket=syslog),)))[0]


def test_what_inotify_watches() -> None:
    watch = InotifyWatch(wd=1, mask=2, device="08:01", inode=7, handle_type=1, handle=b"", path="/x")
    item = file_of(OpenFileKind.INOTIFY, "anon_inode:inotify", inotify=[watch])
    assert differs(dump_of(files=(item,))) == []
    assert "same machine" in differs(dump_of(files=(replace(item, inotify=[watch, replace(watch, path="")]),)))[0]


def test_a_connection_is_told_once() -> None:
    item = file_of(OpenFileKind.SOCKET, "socket:[1]", socket=replace(SOCKET, state="established"))
    reason = "sequence numbers and bytes in flight of TCP connections are not captured (established; 0 bytes)"
    process = replace(PROCESS, missing=[Missing(what="descriptor 3 (socket:[1])", reason=reason)])
    (text,) = differs(dump_of(process, files=(item,)))
    assert "--tcp close" in text


def test_a_terminal_whose_other_end_is_elsewhere() -> None:
    terminal = Terminal(termios=b"", rows=0, columns=0, index=3, session=0, foreground_group=0)
    slave = file_of(OpenFileKind.TERMINAL, "/dev/pts/3", terminal=terminal)
    master = replace(slave, id=9, path="/dev/ptmx", terminal=replace(terminal, is_master=True))
    assert "drives" in differs(dump_of(files=(slave,)))[0]
    assert differs(dump_of(files=(slave, master))) == []
    console = replace(slave, terminal=replace(terminal, index=-1))
    assert "by its path" in differs(dump_of(files=(console,)))[0]


def test_namespaces_that_are_not_predumps() -> None:
    def manifest(kind: str, inode: int) -> Manifest:
        host = replace(HOST, namespaces=[Namespace(kind=kind, inode=1)])
        return dump_of(with_state(namespaces=[Namespace(kind=kind, inode=inode)]), host=host)

    assert "user namespace" in stops(manifest("user", 2))[0]
    assert stops(manifest("user", 1)) == []
    assert "net namespace" in differs(manifest("net", 2))[0]
    assert differs(dump_of(with_state(namespaces=[Namespace(kind="user", inode=2)]))) == []  # nobody told predump's
    unshared = [Namespace(kind="pid", inode=2), Namespace(kind="pid_for_children", inode=3)]
    assert "new children" in differs(dump_of(with_state(namespaces=unshared)))[0]


def test_parents_and_leaders() -> None:
    assert differs(dump_of(PROCESS, child_of(PROCESS))) == []
    assert "parent" in stops(dump_of(PROCESS, replace(child_of(PROCESS), ppid=7)))[0]
    zombie = replace(process_of(ImageRound({}, vmas=())), pid=PID + 2, ppid=PID, zombie=zombie_of(PID + 2, 0))
    assert differs(dump_of(PROCESS, zombie)) == []
    assert "zombie" in stops(dump_of(PROCESS, replace(zombie, ppid=7)))[0]
    inner = child_of(PROCESS)
    assert inner.state is not None
    lineage = replace(inner.state.lineage, ns_pids=[PID + 1, 1])
    assert "pid namespace" in stops(dump_of(PROCESS, replace(inner, state=replace(inner.state, lineage=lineage))))[0]
    of_others = with_state(lineage=replace(STATE.lineage, session=7, process_group=8))
    assert "session" in differs(dump_of(of_others))[0]
    in_a_group = with_state(lineage=replace(STATE.lineage, process_group=8))
    assert "process group" in differs(dump_of(in_a_group))[0]


def test_the_root_has_a_signal_for_the_death_of_its_parent() -> None:
    process = with_thread(parent_death_signal=9)
    assert "--detach" in differs(dump_of(process))[0]
    child = replace(child_of(PROCESS), threads=[replace(process.threads[0], tid=PID + 1)])
    assert differs(dump_of(PROCESS, child)) == []


def test_an_object_that_could_not_be_read() -> None:
    held = ImageObject(1, {}, 4096, unreadable=(Gap(start_addr=0, end_addr=4096, reason="odd"),)).record()
    assert "odd" in stops(dump_of(objects=[held]))[0]
    assert stops(dump_of(objects=[replace(held, kind="file")])) == []


def test_segments_of_system_v() -> None:
    def manifest(*vmas: Vma, attached: int = 1, **changes: object) -> Manifest:
        segment = Segment(key=7, size_bytes=8192, mode=0o600, uid=0, gid=0, attached=attached)
        held = replace(ImageObject(1, {}, 8192).record(), path="/SYSV00000007", **{"segment": segment, **changes})
        return dump_of(replace(PROCESS, vmas=list(vmas)), objects=[held])

    first = replace(vma_of(0, 1, "shmem", "/SYSV00000007 (deleted)"), object=1)
    second = replace(first, start_addr=first.end_addr, end_addr=first.end_addr + 4096, offset_bytes=4096)
    assert stops(manifest(first)) == []
    assert stops(manifest(first, second, attached=2)) == []
    assert "not in the dump" in stops(manifest(first, attached=2))[0]
    assert "key and owner" in stops(manifest(first, segment=None))[0]
    assert "attached whole" in stops(manifest(first, vma_of(1, 2)))[0]
    assert stops(manifest(first, vma_of(2, 3))) == []
    both = manifest(first, second, attached=1)
    other = replace(both.objects[0], id=2, inode=9)
    assert "id or key" in stops(replace(both, objects=[both.objects[0], other]))[0]


def test_a_thing_is_told_once_and_stopping_wins() -> None:
    item = file_of(OpenFileKind.OTHER, "anon_inode:[x]")
    missing = Missing(what="descriptor 3 (anon_inode:[x])", reason="files of this kind are not captured")
    verdict = verdict_on(dump_of(replace(PROCESS, missing=[missing]), files=(item,)))
    assert len(verdict.obstacles) == 1
    assert verdict.warnings == []

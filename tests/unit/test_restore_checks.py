"""What a restore needs outside of the image: each check with facts that are given, and with files that are there."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from formats.buildid import build_id
from formats.manifest import Clocks, Manifest, MappedFile, Process, Vma
from formats.openfiles import OpenFile, OpenFileKind
from formats.processstate import Namespace, PosixTimer
from formats.threadstate import Credentials, Rseq
from restorer.checks import (
    CheckOptions,
    Problem,
    abilities,
    check_manifest,
    clocks,
    files,
    ids,
    processor,
    surroundings,
)
from restorer.checks.findings import Findings, Subject
from restorer.checks.host import Host, look_at_host, swap_free_bytes
from restorer.clocks import Readings
from restorer.errors import CannotRestore
from tests.format.images import PID, vma_of
from tests.restorables import PROCESS, SOCKET, STATE, THREAD, child_of, dump_of, file_of, with_state, with_thread
from tests.states import plain_credentials

HERE = Host(
    made_as=plain_credentials(),
    xstate=b"",
    instructions=frozenset(),
    namespaces={},
    boot_id="boot",
    clocks=Readings(10**18, 10**18),
    cgroups=(),
    available_bytes=1 << 40,
    max_fds=1 << 20,
)
ALL_CAPS = (1 << 41) - 1
FREE_PIDS = CheckOptions(pid_namespace=True)


def stopping(found: Iterator[Problem]) -> list[str]:
    return [one.message for one in found if one.stops]


def warnings(found: Iterator[Problem]) -> list[str]:
    found_all = list(found)
    assert not any(one.stops for one in found_all), found_all
    return [one.message for one in found_all]


# ---- files --------------------------------------------------------------------------------------------------------


def mapping(path: Path, **changes: object) -> Vma:
    return replace(vma_of(0, 1, "file", str(path)), **{"perms": "r-xp", "inode": 5, **changes})


def mapped(path: Path, record: MappedFile | None = None, **changes: object) -> Manifest:
    records = [record] if record else []
    return dump_of(replace(PROCESS, exe="", vmas=[mapping(path, **changes)], mapped_files=records))


def record_of(path: Path, **changes: object) -> MappedFile:
    """As a dump has it, by the key of its mapping."""
    status = path.stat()
    key = mapping(path)
    record = MappedFile(
        path=str(path), device=key.device, inode=5, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns
    )
    return replace(record, **changes)


def test_mapped_files_by_build_id(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(Path(sys.executable).resolve().read_bytes())
    with program.open("rb") as file:
        identity = build_id(lambda offset, n_bytes: os.pread(file.fileno(), n_bytes, offset))
    if not identity:
        pytest.skip("this interpreter has no build id")
    record = record_of(program, build_id=identity, mtime_ns=7)
    assert list(files.look(mapped(program, record))) == []
    (message,) = stopping(files.look(mapped(program, replace(record, build_id="ab" * 20))))
    assert "build id" in message


def test_mapped_files_by_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 5000)
    record = record_of(path)
    assert list(files.look(mapped(path, record))) == []
    assert list(files.look(mapped(path))) == []  # nothing is known of it: it is there
    whole_second = record.mtime_ns // 10**9 * 10**9
    os.utime(path, ns=(whole_second, whole_second))  # out of an archive
    assert list(files.look(mapped(path, record))) == []
    os.utime(path, ns=(0, record.mtime_ns + 10**9))
    (message,) = stopping(files.look(mapped(path, record)))
    assert "written to since" in message
    assert len(warnings(files.look(mapped(path, record, perms="rw-s")))) == 1
    path.write_bytes(b"")
    assert "shorter" in stopping(files.look(mapped(path, record)))[0]


def test_mapped_files_that_are_gone_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert "No such file" in stopping(files.look(mapped(path)))[0]
    (tmp_path / "other").write_bytes(b"x")
    path.symlink_to("other")
    assert "symbolic links" in stopping(files.look(mapped(path)))[0]
    path.unlink()
    os.mkfifo(path)  # nothing waits for a writer
    assert "no regular file" in stopping(files.look(mapped(path)))[0]


def test_what_an_object_holds_is_not_looked_for(tmp_path: Path) -> None:
    assert list(files.look(mapped(tmp_path / "gone (deleted)", object=1))) == []


def test_executables(tmp_path: Path) -> None:
    def of(exe: str) -> Manifest:
        return dump_of(replace(PROCESS, vmas=[], exe=exe, exe_build_id="ab"))

    assert "No such file" in warnings(files.look(of(str(tmp_path / "gone"))))[0]
    assert "removed already" in warnings(files.look(of(f"{tmp_path}/gone (deleted)")))[0]
    assert "build id" in warnings(files.look(of(str(Path(sys.executable).resolve()))))[0]


def test_directories(tmp_path: Path) -> None:
    process = replace(with_state(cwd=str(tmp_path / "gone")), vmas=[], exe="")
    assert "working directory" in stopping(files.look(dump_of(process)))[0]
    (tmp_path / "gone").mkdir()
    assert list(files.look(dump_of(process))) == []


def opened(item: OpenFile) -> Manifest:
    return dump_of(replace(PROCESS, vmas=[], exe=""), files=(item,))


def test_open_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    item = file_of(
        OpenFileKind.FILE, str(path), flags=os.O_WRONLY, size_bytes=100, mtime_ns=path.stat().st_mtime_ns, mode=0o100600
    )
    assert list(files.look(opened(item))) == []
    path.write_bytes(b"x" * 101)
    assert "since the dump" in warnings(files.look(opened(item)))[0]
    path.write_bytes(b"")
    assert "shorter" in stopping(files.look(opened(item)))[0]
    assert list(files.look(opened(replace(item, flags=os.O_PATH)))) == []
    path.unlink()
    assert "No such file" in stopping(files.look(opened(item)))[0]
    path.mkdir()
    assert "not a regular file" in stopping(files.look(opened(item)))[0]
    assert list(files.look(opened(replace(item, kind=OpenFileKind.DIRECTORY, flags=os.O_RDONLY)))) == []
    assert list(files.look(opened(replace(item, deleted=True, object=1)))) == []


def test_impossible_names_are_told_not_raised() -> None:
    assert "impossible" in stopping(files.look(opened(file_of(OpenFileKind.FILE, "/a\0b"))))[0]


def test_devices() -> None:
    null = file_of(OpenFileKind.DEVICE, "/dev/null", special="01:03", mode=0o020666, flags=os.O_RDWR)
    assert list(files.look(opened(null))) == []
    assert "01:05" in stopping(files.look(opened(replace(null, special="01:05"))))[0]


# ---- ids ----------------------------------------------------------------------------------------------------------


def test_ids_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("restorer.freepids.ALIVE_PATIENCE_S", 0.0)
    own = os.getpid()
    process = replace(with_thread(tid=own, ns_tids=[own]), pid=own)
    assert process.state is not None
    lineage = replace(process.state.lineage, ns_pids=[own], process_group=own, session=own, ns_sessions=[own])
    process = replace(process, state=replace(process.state, lineage=replace(lineage, ns_process_groups=[own])))
    manifest = dump_of(process, root_pid=own)
    (message,) = stopping(ids.look(manifest, own_session=False, need_free=True))
    assert str(own) in message
    assert list(ids.look(manifest, own_session=False, need_free=False)) == []


def test_a_tree_that_cannot_be_made() -> None:
    manifest = dump_of(PROCESS, replace(child_of(PROCESS), ppid=PID + 5))
    assert len(stopping(ids.look(manifest, own_session=False, need_free=False))) == 1


# ---- kernel and privileges ----------------------------------------------------------------------------------------


def words_of(process: Process, *, same_ids: bool = True) -> str:
    return " ".join(words for _, words, _, _ in abilities.needs(dump_of(process), same_ids=same_ids))


def test_only_what_is_needed_is_tried() -> None:
    assert "ids that they had" in words_of(PROCESS)
    assert "ids that they had" not in words_of(PROCESS, same_ids=False)
    assert "timers" not in words_of(PROCESS)
    timer = PosixTimer(id=5, clock=1, signal=14, value=0, notify=0, tid=0, interval_ns=0, remaining_ns=0, overruns=0)
    assert "timers" in words_of(with_state(posix_timers=[timer]))
    assert "rseq" in words_of(with_thread(rseq=Rseq(addr=4096, size_bytes=32, signature=0, flags=0)))


@pytest.mark.parametrize(
    ("number", "subject", "words"),
    [
        (errno.EPERM, Subject.PRIVILEGE, "This user may not do it"),
        (errno.EINVAL, Subject.KERNEL, "This kernel cannot do it"),
    ],
)
def test_what_fails_is_told_by_its_errno(number: int, subject: Subject, words: str) -> None:
    def fails() -> str:
        raise OSError(number, os.strerror(number))

    wanted = [(fails, "do it", "hint", True), (lambda: "works", "do that", "", True)]
    (problem,) = abilities.try_out(iter(wanted), abilities.Trials())
    assert (problem.subject, problem.hint, problem.stops) == (subject, "hint", True)
    assert words in problem.message


def may_become(wanted: Credentials, made_as: Credentials) -> list[str]:
    return stopping(abilities.credentials(dump_of(with_state(credentials=wanted)), made_as))


def test_whom_a_caller_may_become() -> None:
    root = replace(plain_credentials(), cap_permitted=ALL_CAPS, cap_effective=ALL_CAPS, cap_bounding=ALL_CAPS)
    user = replace(plain_credentials(1000, 1000), groups=[1000])
    assert may_become(user, root) == []
    assert may_become(user, user) == []
    assert "user 0" in may_become(plain_credentials(), user)[0]
    (message,) = may_become(replace(user, groups=[27]), user)
    assert "groups" in message
    (message,) = may_become(replace(user, cap_permitted=1 << 12), user)
    assert "0x1000" in message
    assert may_become(replace(root, cap_permitted=1, cap_effective=1), root) == []


def test_seccomp_filters_need_root() -> None:
    manifest = dump_of(with_state(seccomp_filters=[b"12345678"]))
    assert "seccomp" in stopping(abilities.credentials(manifest, plain_credentials()))[0]


# ---- processor ----------------------------------------------------------------------------------------------------


def xstate_of(enabled: int, used: int = 0, n_bytes: int = 832) -> bytes:
    state = bytearray(n_bytes)
    struct.pack_into("<Q", state, 464, enabled)
    struct.pack_into("<Q", state, 512, used)
    return bytes(state)


def lacks(there: bytes, here: bytes) -> list[str]:
    return stopping(processor.look(dump_of(with_thread(xstate=there)), here, frozenset()))


def test_registers_of_a_processor() -> None:
    assert lacks(xstate_of(7), xstate_of(7)) == []
    assert lacks(b"", xstate_of(7)) == []
    (message,) = lacks(xstate_of(0xE7, n_bytes=2696), xstate_of(7))
    assert "AVX-512" in message
    assert len(lacks(xstate_of(7, used=1 << 40), xstate_of(7))) == 1
    (message,) = lacks(xstate_of(7), xstate_of(0xE7, n_bytes=2696))
    assert "832" in message


def test_instructions_of_a_processor() -> None:
    manifest = dump_of()
    manifest = replace(manifest, host=replace(manifest.host, instructions=["avx2", "sse2"]))
    assert "avx2" in stopping(processor.look(manifest, b"", frozenset({"sse2"})))[0]
    assert list(processor.look(manifest, b"", frozenset({"sse2", "avx2", "fma"}))) == []
    assert list(processor.look(manifest, b"", frozenset())) == []  # this machine does not tell


# ---- around -------------------------------------------------------------------------------------------------------


def test_room_in_memory() -> None:
    manifest = dump_of(replace(PROCESS, pages_data=512, pages_parent=512))
    assert list(surroundings.memory(manifest, 4 << 20)) == []
    assert "4 MiB" in stopping(surroundings.memory(manifest, (4 << 20) - 1))[0]
    assert swap_free_bytes("MemTotal: 9 kB\nMemAvailable:  3 kB\nSwapFree: 1 kB\n") == 1024
    assert swap_free_bytes("") == 0


def test_clocks_that_would_go_back() -> None:
    taken = Clocks(realtime_ns=1, monotonic_ns=5 * 10**9, boottime_ns=6 * 10**9)
    manifest = dump_of(PROCESS, child_of(PROCESS), clocks=taken)
    here = Readings(2 * 10**9, 0)
    told = warnings(clocks.look(manifest, here, time_namespace=False))
    assert len(told) == 2
    assert "go back by 3 s" in told[0]
    assert list(clocks.look(manifest, Readings(5 * 10**9, 0), time_namespace=False)) == []
    assert list(clocks.look(manifest, here, time_namespace=True)) == []
    assert "does not have" in stopping(clocks.look(replace(manifest, clocks=None), here, time_namespace=True))[0]
    inner = replace(STATE, namespaces=[Namespace(kind="time", inode=2)], monotonic_offset_ns=7)
    mixed = replace(manifest, processes=[PROCESS, replace(child_of(PROCESS), state=inner)])
    assert "those of the root process" in warnings(clocks.look(mixed, here, time_namespace=True))[0]


def test_namespaces_are_known_on_the_same_boot_only() -> None:
    manifest = dump_of(with_state(namespaces=[Namespace(kind="net", inode=2)]))
    assert "net namespace" in warnings(surroundings.namespaces(manifest, "boot", {"net": 1}))[0]
    assert list(surroundings.namespaces(manifest, "boot", {"net": 2})) == []
    assert list(surroundings.namespaces(manifest, "other boot", {"net": 1})) == []


def test_cgroups() -> None:
    manifest = dump_of(with_state(cgroups=["0::/service"]))
    assert "/service" in warnings(surroundings.cgroups(manifest, ["0::/"]))[0]
    assert list(surroundings.cgroups(manifest, ["0::/service"])) == []


def listening(family: int, sockaddr: bytes) -> Manifest:
    sock = replace(SOCKET, family=family, local_sockaddr=sockaddr, protocol=0, local="there")
    return opened(file_of(OpenFileKind.SOCKET, "socket:[1]", socket=sock))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_ports_that_are_taken(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        other = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {family.name}: {error}")
    with other:
        port = struct.pack("=H", family) + struct.pack("!H", other.getsockname()[1])
        packed = socket.inet_pton(family, host)
        sockaddr = port + packed + bytes(8) if family == socket.AF_INET else port + bytes(4) + packed + bytes(4)
        (message,) = stopping(surroundings.sockets(listening(family, sockaddr)))
        assert "in use" in message
    assert list(surroundings.sockets(listening(family, sockaddr))) == []


def test_addresses_that_are_none_are_told() -> None:
    assert len(stopping(surroundings.sockets(listening(socket.AF_INET, b"\x02\x00")))) == 1


def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "s"
    manifest = listening(socket.AF_UNIX, b"\x01\x00" + os.fsencode(path) + b"\0")
    assert list(surroundings.sockets(manifest)) == []
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert "listens" in stopping(surroundings.sockets(manifest))[0]
    assert list(surroundings.sockets(manifest)) == []  # the name is left, and nobody listens
    path.unlink()
    path.write_text("x")
    assert "in the place" in stopping(surroundings.sockets(manifest))[0]
    elsewhere = listening(socket.AF_UNIX, b"\x01\x00" + os.fsencode(tmp_path / "gone" / "s"))
    assert "directory" in stopping(surroundings.sockets(elsewhere))[0]


def test_abstract_unix_sockets() -> None:
    name = f"\0predump-test-{os.getpid()}".encode()
    manifest = listening(socket.AF_UNIX, b"\x01\x00" + name)
    assert list(surroundings.sockets(manifest)) == []
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(name)
        assert "@predump-test" in stopping(surroundings.sockets(manifest))[0]


# ---- all of it ----------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    process = replace(with_state(cwd=str(tmp_path / "gone")), vmas=[mapping(tmp_path / "lib.so")], exe="")
    findings = check_manifest(dump_of(process), FREE_PIDS, replace(HERE, available_bytes=-1))
    assert {one.subject for one in findings.problems} >= {Subject.FILE, Subject.MEMORY}
    with pytest.raises(CannotRestore) as raised:
        findings.demand()
    assert "lib.so" in raised.value.message
    assert "--check" in raised.value.hint
    assert raised.value.fields["problems"] == len(findings.problems)


def test_what_the_image_lacks_comes_first(tmp_path: Path) -> None:
    process = replace(PROCESS, state=None, vmas=[mapping(tmp_path / "lib.so")])
    findings = check_manifest(dump_of(process), FREE_PIDS, HERE)
    assert {one.subject for one in findings.problems} == {Subject.IMAGE}


@pytest.mark.parametrize("problems", [[], [Problem(Subject.FILE, f"{number}.", "hint") for number in range(9)]])
def test_few_are_named_in_the_error(problems: Sequence[Problem]) -> None:
    findings = Findings()
    findings.add([*problems, *problems, Problem(Subject.ID, "bearable.", stops=False)])
    assert len(findings.problems) == len(problems)
    assert len(findings.warnings) == 1
    if not problems:
        findings.demand()
        return
    with pytest.raises(CannotRestore, match=r"0\. 1\. 2\. 3\. 4\. And 4 more\."):
        findings.demand()


def test_this_machine_tells_its_facts() -> None:
    host = look_at_host()
    assert host.made_as.uids == [os.geteuid()] * 4
    assert len(host.xstate) >= 576
    assert struct.unpack_from("<Q", host.xstate, 464)[0] & 3 == 3
    assert host.available_bytes > 1 << 20
    assert list(processor.look(dump_of(with_thread(xstate=host.xstate)), host.xstate, host.instructions)) == []
    assert THREAD.xstate == b""

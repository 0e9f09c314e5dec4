"""Notes of an ELF core: what it says of a process and its threads beside memory.

Structs and order are those of the kernel's own cores: fs/binfmt_elf.c, include/linux/elfcore.h, elf(5). The notes of
the main thread come first; gdb takes the first NT_PRSTATUS for the current thread, and each further one for the
beginning of the next thread. Pids are those of the process's own pid namespace, as in the kernel's cores: gdb compares
them with what the C library has in memory.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

from formats.elf import NHDR
from formats.layout import PAGE_BYTES
from formats.manifest import Process, Vma
from formats.threadstate import PendingSignal, Thread
from formats.xstate import for_debuggers

TORN_OWNER = b"predump"
TORN_TEXT = b"torn: pages are of different moments, and there are no registers\0"


class NoteType(IntEnum):
    """Types of notes of a core: include/uapi/linux/elf.h."""

    PRSTATUS = 1
    FPREGSET = 2
    PRPSINFO = 3
    AUXV = 6
    X86_XSTATE = 0x202
    FILE = 0x46494C45
    SIGINFO = 0x53494749


TORN_TYPE = 0x6E726F74
"""The only type of note of the owner TORN_OWNER."""

_CORE, _LINUX = b"CORE", b"LINUX"
_PRSTATUS = struct.Struct("<iiih2xQQiiii64x27QI4x")
"""elf_prstatus: pr_info, pr_cursig, pr_sigpend, pr_sighold, pr_pid, pr_ppid, pr_pgrp, pr_sid, four times, pr_reg,
pr_fpvalid."""
_PRPSINFO = struct.Struct("<bcbb4xQIIiiii16s80s")
"""elf_prpsinfo: pr_state, pr_sname, pr_zomb, pr_nice, pr_flag, pr_uid, pr_gid, pr_pid, pr_ppid, pr_pgrp, pr_sid,
pr_fname, pr_psargs."""
_FILE_HEADER = struct.Struct("<QQ")
"""Number of mappings, bytes of a page."""
_FILE_ENTRY = struct.Struct("<QQQ")
"""start, end, offset in the file in pages."""
_NEITHER_TEXT_NOR_BYTE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # only damage has these
_SIGINFO_BYTES = 128
_FNAME_BYTES, _PSARGS_BYTES = 16, 80
_NO_ID = (1 << 32) - 1  # (uid_t)-1: nobody
_U64 = (1 << 64) - 1

# user_regs_struct of arch/x86/include/asm/user_64.h.
_REGISTERS = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip


def threads_with_registers(process: Process) -> list[Thread]:
    """The threads that a core can have, the main thread first."""
    threads = [thread for thread in process.threads if thread.registers]
    return sorted(threads, key=lambda thread: (thread.tid != process.pid, thread.tid))


def notes(process: Process, auxv: bytes, *, torn: bool) -> Iterator[bytes]:
    """All notes in order, each as it is in the file."""
    process_notes = _notes_of_process(process, auxv, torn=torn)
    threads = [] if torn else threads_with_registers(process)
    if not threads:
        yield from process_notes
    for position, thread in enumerate(threads):
        yield _note(_CORE, NoteType.PRSTATUS, _prstatus(process, thread))
        if position == 0:
            yield from process_notes
        yield _note(_CORE, NoteType.SIGINFO, bytes(_SIGINFO_BYTES))  # no signal ended it
        if thread.fpregs:
            yield _note(_CORE, NoteType.FPREGSET, thread.fpregs)
        xstate = for_debuggers(thread.xstate)
        if xstate:
            yield _note(_LINUX, NoteType.X86_XSTATE, xstate)


def _notes_of_process(process: Process, auxv: bytes, *, torn: bool) -> Iterator[bytes]:
    yield _note(_CORE, NoteType.PRPSINFO, _prpsinfo(process))
    if auxv:
        yield _note(_CORE, NoteType.AUXV, auxv)
    mapped = [vma for vma in process.vmas if vma.has_file]
    if mapped:
        yield _note(_CORE, NoteType.FILE, _files(mapped))
    if torn:
        yield _note(TORN_OWNER, TORN_TYPE, TORN_TEXT)


def _note(owner: bytes, kind: int, content: bytes) -> bytes:
    name = owner + b"\0"
    return b"".join((NHDR.pack(len(name), len(content), kind), _padded(name), _padded(content)))


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _prstatus(process: Process, thread: Thread) -> bytes:
    # A manifest may have any integers of 64 bits, signed or not.
    registers = [thread.registers.get(name, 0) & _U64 for name in _REGISTERS]
    return _PRSTATUS.pack(
        0,
        0,
        0,
        0,
        _signal_set(thread.pending),
        thread.signal_mask & _U64,
        _own_pid(thread.ns_tids, thread.tid),
        *_relatives(process),
        *registers,
        int(bool(thread.fpregs)),
    )


def _prpsinfo(process: Process) -> bytes:
    state = process.state
    uids, gids = (state.credentials.uids, state.credentials.gids) if state else ([], [])
    leader = next((thread for thread in process.threads if thread.tid == process.pid), None)
    nice = leader.scheduling.nice if leader and leader.scheduling else 0
    return _PRPSINFO.pack(
        0,
        b"R",
        0,
        max(-20, min(nice, 19)),
        0,
        (uids[0] if uids else _NO_ID) & 0xFFFF_FFFF,
        (gids[0] if gids else _NO_ID) & 0xFFFF_FFFF,
        _own_pid(process.lineage.ns_pids if process.lineage else [], process.pid),
        *_relatives(process),
        _text(process.name)[: _FNAME_BYTES - 1],
        _text(" ".join(process.cmdline))[: _PSARGS_BYTES - 1],
    )


def _files(mapped: Sequence[Vma]) -> bytes:
    entries = [_FILE_ENTRY.pack(vma.start_addr, vma.end_addr, vma.offset_bytes // PAGE_BYTES & _U64) for vma in mapped]
    names = [_text(vma.path) + b"\0" for vma in mapped]
    return b"".join((_FILE_HEADER.pack(len(mapped), PAGE_BYTES), *entries, *names))


def _signal_set(pending: Sequence[PendingSignal]) -> int:
    """A sigset_t: bit 0 is signal 1."""
    found = 0
    for signal in pending:
        if 1 <= signal.number <= 64:
            found |= 1 << (signal.number - 1)
    return found


def _relatives(process: Process) -> tuple[int, int, int]:
    """Parent, process group and session, 0 where nobody knows."""
    lineage = process.lineage
    if lineage is None:
        return _own_pid([], process.ppid), 0, 0
    is_nested = len(lineage.ns_pids) > 1  # then the parent's pid in there is not recorded
    return (
        0 if is_nested else _own_pid([], process.ppid),
        _own_pid(lineage.ns_process_groups, lineage.process_group),
        _own_pid(lineage.ns_sessions, lineage.session),
    )


def _own_pid(by_namespace: Sequence[int], outer: int) -> int:
    """A pid as the process itself sees it, which is the last of its pids from the outermost namespace on."""
    return (by_namespace[-1] if by_namespace else outer) & 0x7FFF_FFFF


def _text(text: str) -> bytes:
    return _NEITHER_TEXT_NOR_BYTE.sub("?", text).encode("utf-8", "surrogateescape")

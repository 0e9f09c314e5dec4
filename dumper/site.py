"""Where in a target a system call can be injected: instructions it has anyway, and stack that is free."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace

from dumper.errors import TargetUntraceable
from dumper.kernel.ptrace import InjectionSite, frame_mark
from dumper.proc.maps import Mapping
from dumper.target import Target
from formats.layout import PAGE_BYTES

SYSCALL_RET = b"\x0f\x05\xc3"
RESTORER = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"  # mov $15, %rax; syscall: what sigaction(2) callers register
POP_RAX_RET, POP_RDI_RET, POP_RSI_RET, POP_RDX_RET = b"\x58\xc3", b"\x5f\xc3", b"\x5e\xc3", b"\x5a\xc3"
STORE_RAX_RET = b"\x48\x89\x02\xc3"  # mov %rax, (%rdx); ret
PATTERNS = (SYSCALL_RET, RESTORER, POP_RAX_RET, POP_RDI_RET, POP_RSI_RET, POP_RDX_RET, STORE_RAX_RET)
SEARCH_PIECE_BYTES = 4 << 20
SCRATCH_PAGES = 4  # of a block: two signal frames and the largest XSAVE area
SCRATCH_BYTES = SCRATCH_PAGES * PAGE_BYTES
MAX_SCRATCH_BLOCKS = 4  # frames of more threads side by side gain nothing
SEARCHED_STACK_BYTES = 128 << 10  # a new process has so much below its stack pointer: setup_arg_pages in fs/exec.c
FRAME_MARK = frame_mark()
PAGEMAP_WORD_BYTES = 8
PRESENT_OR_SWAPPED = 0xC0  # of a word's last byte: bits 63 and 62, proc_pid_pagemap(5)


def _pieces(target: Target, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
    overlap = max(len(SYSCALL_RET), len(RESTORER)) - 1
    for addr in range(mapping.start_addr, mapping.end_addr, SEARCH_PIECE_BYTES):
        length = min(SEARCH_PIECE_BYTES + overlap, mapping.end_addr - addr)
        try:
            text = os.pread(target.mem_fd, length, addr)
        except OSError:
            continue
        if not text:
            raise ProcessLookupError(errno.ESRCH, "the process ended or called exec")  # mem_rw in fs/proc/base.c
        yield addr, text


def _is_free(target: Target, addr: int) -> bool:
    """Whether the pages of one block were never touched, hold only zeros, or frames of an injection cut short."""
    words = os.pread(target.pagemap_fd, PAGEMAP_WORD_BYTES * SCRATCH_PAGES, addr // PAGE_BYTES * PAGEMAP_WORD_BYTES)
    if len(words) == PAGEMAP_WORD_BYTES * SCRATCH_PAGES and not any(b & PRESENT_OR_SWAPPED for b in words[7::8]):
        return True
    content = os.pread(target.mem_fd, SCRATCH_BYTES, addr)
    return len(content) == SCRATCH_BYTES and (not any(content) or FRAME_MARK in content)


def _with_room(target: Target, stack: Mapping) -> Mapping:
    """[stack], grown by one block if its low end is in use: the stack pointer may be just above it.

    A stack grows when it is accessed through /proc/PID/mem below its end, as it does when the process itself goes
    deeper (__access_remote_vm in mm/memory.c). Where it may not grow it stays as it is.
    """
    if not _is_free(target, stack.start_addr):
        start_addr = stack.start_addr - SCRATCH_BYTES
        try:
            os.pread(target.mem_fd, 1, start_addr)
        except OSError:
            return stack
        return replace(stack, start_addr=start_addr)
    return stack


def _scratch(target: Target, stack: Mapping) -> tuple[int, int]:
    """Start and end of free pages near the low end of [stack], or (0, 0): for threads that run on other stacks.

    Of a stack in use, the low end is the part that is not reached yet.
    """
    start_addr = end_addr = 0
    limit_addr = min(stack.end_addr, stack.start_addr + SEARCHED_STACK_BYTES)
    for addr in range(stack.start_addr, limit_addr - SCRATCH_BYTES + 1, SCRATCH_BYTES):
        if _is_free(target, addr):
            start_addr = start_addr or addr
            end_addr = addr + SCRATCH_BYTES
        if end_addr and (end_addr <= addr or end_addr - start_addr == MAX_SCRATCH_BLOCKS * SCRATCH_BYTES):
            break
    return start_addr, end_addr


def _is_constant_code(mapping: Mapping) -> bool:
    """Code of a file that cannot be written: it stays as it is between the search and the stop."""
    return mapping.is_executable and mapping.has_file and mapping.perms[1] != "w"


def find_site(target: Target, mappings: list[Mapping]) -> InjectionSite:
    """Finds the instructions and the stack an injection needs; the target runs meanwhile.

    Raises TargetUntraceable if there are none, ProcessLookupError if the process has ended or called exec.
    """
    stack = next((m for m in mappings if m.path == "[stack]"), None)
    found: dict[bytes, int] = {}
    code = [m for m in mappings if _is_constant_code(m)]
    for mapping in sorted(code, key=lambda m: "libc" not in m.path):
        for addr, text in _pieces(target, mapping):
            for pattern in PATTERNS:
                at = -1 if pattern in found else text.find(pattern)
                if at >= 0:
                    found[pattern] = addr + at
        if SYSCALL_RET in found and RESTORER in found and stack:
            stack = _with_room(target, stack)
            scratch_start_addr, scratch_end_addr = _scratch(target, stack)
            return InjectionSite(
                syscall_ret_addr=found[SYSCALL_RET],
                restorer_addr=found[RESTORER],
                stack_start_addr=stack.start_addr,
                stack_end_addr=stack.end_addr,
                scratch_start_addr=scratch_start_addr,
                scratch_end_addr=scratch_end_addr,
                pop_rax_addr=found.get(POP_RAX_RET, 0),
                pop_rdi_addr=found.get(POP_RDI_RET, 0),
                pop_rsi_addr=found.get(POP_RSI_RET, 0),
                pop_rdx_addr=found.get(POP_RDX_RET, 0),
                store_rax_addr=found.get(STORE_RAX_RET, 0),
            )
    raise TargetUntraceable(
        f"process {target.pid} offers no safe place to inject a system call (no stack, or no code that returns "
        "from a signal)",
        hint="Use 'predump dump --no-pre-dump', which needs no injection.",
        pid=target.pid,
    )


def site_like(site: InjectionSite, target: Target, mappings: list[Mapping]) -> InjectionSite | None:
    """The site of the target that is where `site` is in its parent, or None: it looks at a few bytes only."""
    stack = next((m for m in mappings if m.path == "[stack]"), None)
    if not stack:
        return None
    for addr, pattern in ((site.syscall_ret_addr, SYSCALL_RET), (site.restorer_addr, RESTORER)):
        is_code = any(m.start_addr <= addr < m.end_addr and _is_constant_code(m) for m in mappings)
        try:
            if not is_code or os.pread(target.mem_fd, len(pattern), addr) != pattern:
                return None
        except OSError:
            return None
    stack = _with_room(target, stack)
    scratch_start_addr, scratch_end_addr = _scratch(target, stack)
    return replace(
        site,
        stack_start_addr=stack.start_addr,
        stack_end_addr=stack.end_addr,
        scratch_start_addr=scratch_start_addr,
        scratch_end_addr=scratch_end_addr,
    )

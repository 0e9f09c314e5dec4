"""Who a process that is being made is: user and group ids, capabilities, seccomp filters.

What the caller may not give, the kernel refuses: a restore gains no privilege.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dumper.kernel.remote import RemoteThread, Sys
from formats.threadstate import Credentials, Thread
from restorer.shell import Shell

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 4, 8, 24, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_RAISE = 2
SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER = 0, 1
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_FILTER_BYTES = 8  # struct sock_filter


def set_credentials(shell: Shell, thread: RemoteThread, has: Credentials, wanted: Credentials, securebits: int) -> None:
    """From what the thread has to what it had. Raises CallFailed, EPERM where the caller may not."""
    _drop_bounding(thread, has.cap_bounding & ~wanted.cap_bounding)
    changes_ids = (has.uids, has.gids, has.groups) != (wanted.uids, wanted.gids, wanted.groups)
    if changes_ids:
        _set_ids(shell, thread, wanted)
        permitted = has.cap_permitted & has.cap_bounding
        _set_capabilities(shell, thread, permitted, permitted, has.cap_inheritable)
    if wanted.cap_ambient:
        _set_capabilities(shell, thread, has.cap_permitted, has.cap_permitted, wanted.cap_inheritable)
        for number in _bits(wanted.cap_ambient):
            thread.call(Sys.PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
    if securebits:
        thread.call(Sys.PRCTL, PR_SET_SECUREBITS, securebits, 0, 0, 0)
    elif changes_ids:
        thread.call(Sys.PRCTL, PR_SET_KEEPCAPS, 0, 0, 0, 0)
    _set_capabilities(shell, thread, wanted.cap_permitted, wanted.cap_effective, wanted.cap_inheritable)


def set_seccomp(shell: Shell, thread: RemoteThread, record: Thread, filters: Sequence[bytes], wanted: bool) -> None:
    """no_new_privs where `wanted`, then its filters, oldest first: nothing that they refuse can be called after that.

    Raises CallFailed.
    """
    if wanted:
        thread.call(Sys.PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for index in record.seccomp_filters:
        program = filters[index]
        program_addr = shell.put(program, 64)
        addr = shell.put(struct.pack("HxxxxxxQ", len(program) // _FILTER_BYTES, program_addr))
        thread.call(Sys.SECCOMP, SECCOMP_SET_MODE_FILTER, 0, addr)


def set_dumpable(shell: Shell, dumpable: int) -> None:
    """After the ids, whose change sets it anew. Only the kernel gives 2. Raises CallFailed."""
    if dumpable in (0, 1):
        shell.call(Sys.PRCTL, PR_SET_DUMPABLE, dumpable, 0, 0, 0)


def _drop_bounding(thread: RemoteThread, dropped: int) -> None:
    for number in _bits(dropped):
        thread.call(Sys.PRCTL, PR_CAPBSET_DROP, number, 0, 0, 0)


def _set_ids(shell: Shell, thread: RemoteThread, wanted: Credentials) -> None:
    thread.call(Sys.PRCTL, PR_SET_KEEPCAPS, 1, 0, 0, 0)
    groups_addr = shell.put(struct.pack(f"{len(wanted.groups)}I", *wanted.groups))
    thread.call(Sys.SETGROUPS, len(wanted.groups), groups_addr)
    thread.call(Sys.SETRESGID, *wanted.gids[:3])
    thread.call(Sys.SETRESUID, *wanted.uids[:3])
    if wanted.gids[3] != wanted.gids[1]:
        thread.call(Sys.SETFSGID, wanted.gids[3])
    if wanted.uids[3] != wanted.uids[1]:
        thread.call(Sys.SETFSUID, wanted.uids[3])


def _set_capabilities(shell: Shell, thread: RemoteThread, permitted: int, effective: int, inheritable: int) -> None:
    """capset(2)."""
    low, high = (
        (effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF),
        (effective >> 32, permitted >> 32, inheritable >> 32),
    )
    data_addr = shell.put(struct.pack("6I", *low, *high), 16)
    thread.call(Sys.CAPSET, shell.put(struct.pack("Ii", _CAPABILITY_VERSION, 0)), data_addr)


def _bits(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]

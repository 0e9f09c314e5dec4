"""The boundaries of a process's memory in the kernel's mm_struct, its auxiliary vector and its executable."""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress

from dumper.kernel.remote import CallFailed, Sys
from formats.manifest import Process
from formats.processstate import ProcessState
from restorer.caller import Caller
from restorer.errors import RestoreFailed
from restorer.shell import Shell

PR_SET_MM, PR_SET_MM_MAP = 35, 14
NO_FD = (1 << 32) - 1
_AUXV_OFFSET = 256


def set_boundaries(shell: Shell, process: Process, state: ProcessState) -> str:
    """PR_SET_MM_MAP: prctl(2); what did not come back, as words, "" if all did.

    The executable needs CAP_CHECKPOINT_RESTORE, and that the file can be executed. Raises RestoreFailed, CallFailed.
    """
    exe_fd = _open_executable(process)
    try:
        if exe_fd < 0:
            set_layout(shell, state)
            return f"executable {process.exe} of process {process.pid}"
        (there,) = shell.receive([exe_fd])
        try:
            set_layout(shell, state, there)
            return ""
        except CallFailed as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise
            set_layout(shell, state)
            return f"link to the executable of process {process.pid} ({error.strerror})"
        finally:
            shell.call(Sys.CLOSE, there)
    finally:
        if exe_fd >= 0:
            os.close(exe_fd)


def _open_executable(process: Process) -> int:
    with suppress(OSError):
        return os.open(process.exe, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return -1


def set_layout(caller: Caller, state: ProcessState, exe_fd: int = NO_FD) -> None:
    """All but the executable, unless `exe_fd` is a descriptor of it. Raises RestoreFailed, CallFailed."""
    layout = state.layout
    if layout is None:
        raise RestoreFailed("The image does not have the memory layout of the process.")
    auxv_addr = caller.put(state.auxv, _AUXV_OFFSET)
    # struct prctl_mm_map: include/uapi/linux/prctl.h
    boundaries = struct.pack(
        "12QII",
        layout.start_code_addr,
        layout.end_code_addr,
        layout.start_data_addr,
        layout.end_data_addr,
        layout.start_brk_addr,
        layout.brk_addr,
        layout.start_stack_addr,
        layout.arg_start_addr,
        layout.arg_end_addr,
        layout.env_start_addr,
        layout.env_end_addr,
        auxv_addr,
        len(state.auxv),
        exe_fd,
    )
    caller.call(Sys.PRCTL, PR_SET_MM, PR_SET_MM_MAP, caller.put(boundaries), len(boundaries), 0)

"""What is around a process that is being made: directories, umask, limits, and settings of prctl(2) and /proc."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from dumper.kernel.remote import Call, CallFailed, Sys
from dumper.proc.limits import NAMES
from formats.processstate import ProcessState
from restorer.shell import Shell

PR_SET_THP_DISABLE: Final = 41
_PRCTLS: Final[Mapping[str, int]] = {
    "keepcaps": 8,
    "tsc": 26,
    "child_subreaper": 36,
    "io_flusher": 57,
    "memory_merge": 67,
}
"""Options of prctl(2) that take a number, by the name that the image has for it."""
_DEFAULTS: Final[Mapping[str, int]] = {"tsc": 1}
PR_MCE_KILL, PR_MCE_KILL_SET, PR_SET_MDWE, ARCH_SET_CPUID = 33, 1, 65, 0x1012
_MCE_KILL_DEFAULT: Final = 2
_LIMIT: Final = struct.Struct("QQ")


def set_directories(shell: Shell, state: ProcessState) -> None:
    """Root, working directory, umask. Raises CallFailed."""
    if state.root not in ("", "/"):
        shell.call(Sys.CHROOT, shell.put(os.fsencode(state.root) + b"\0"))
    if state.cwd:
        shell.call(Sys.CHDIR, shell.put(os.fsencode(state.cwd) + b"\0"))
    shell.call(Sys.UMASK, state.umask)


def set_limits(shell: Shell, state: ProcessState) -> list[str]:
    """Resource limits, as far as the caller may; others as words. Raises ProcessLookupError."""
    refused = []
    for limit in state.limits:
        try:
            _set_limit(shell, limit.resource, limit.soft, limit.hard)
        except CallFailed as error:
            name = NAMES[limit.resource].decode().removeprefix("Max ")
            refused.append(f"limit of process {shell.pid}: {name} ({error.strerror})")
            _, hard = resource.getrlimit(limit.resource)  # ours, which it has
            if hard != resource.RLIM_INFINITY:
                with suppress(CallFailed):
                    _set_limit(shell, limit.resource, min(limit.soft, hard), min(limit.hard, hard))
    return refused


def _set_limit(shell: Shell, number: int, soft: int, hard: int) -> None:
    """Raises CallFailed."""
    shell.call(Sys.PRLIMIT64, 0, number, shell.put(_LIMIT.pack(soft, hard)), 0)


def set_proc_files(pid: int, state: ProcessState) -> list[str]:
    """What is set through /proc; what the caller may not set, as words."""
    refused = []
    for name, value in (("oom_score_adj", str(state.oom_score_adj)), ("coredump_filter", hex(state.coredump_filter))):
        try:
            Path(f"/proc/{pid}/{name}").write_text(value)
        except OSError as error:
            refused.append(f"{name} of process {pid} ({error.strerror})")
    return refused


def set_prctls(shell: Shell, state: ProcessState) -> list[str]:
    """Settings of the process and of its memory; what the caller may not set, as words. Raises ProcessLookupError."""
    told = state.prctl
    calls = [
        (name, Call(Sys.PRCTL, (option, told[name], 0, 0, 0)))
        for name, option in _PRCTLS.items()
        if told.get(name, 0) != _DEFAULTS.get(name, 0)
    ]
    if state.thp_disabled:
        calls.append(("thp_disable", Call(Sys.PRCTL, (PR_SET_THP_DISABLE, 1, 0, 0, 0))))
    if told.get("mce_kill", _MCE_KILL_DEFAULT) != _MCE_KILL_DEFAULT:
        calls.append(("mce_kill", Call(Sys.PRCTL, (PR_MCE_KILL, PR_MCE_KILL_SET, told["mce_kill"], 0, 0))))
    if told.get("mdwe", 0):
        calls.append(("mdwe", Call(Sys.PRCTL, (PR_SET_MDWE, told["mdwe"], 0, 0, 0))))
    if told.get("cpuid", 1) != 1:
        calls.append(("cpuid", Call(Sys.ARCH_PRCTL, (ARCH_SET_CPUID, told["cpuid"]))))
    refused = []
    for name, call in calls:
        try:
            shell.calls([call])
        except CallFailed as error:
            refused.append(f"{name} of process {shell.pid} ({error.strerror})")
    return refused

"""Which system call goes on by restart_syscall(2): its number is in no register any more."""

import re

RESTART_SYSCALL = 219
_LOADED = re.compile(rb"\xb8(.)\0\0\0")  # mov $NUMBER, %eax
_SYSCALL = b"\x0f\x05"
_WITH_TIME_LEFT = frozenset({7, 35, 202, 230})  # poll, nanosleep, futex, clock_nanosleep


def restarted_call(code: bytes) -> int:
    """The number that the code ahead of the instruction pointer loads, RESTART_SYSCALL if none is to be seen.

    Only calls that leave with ERESTART_RESTARTBLOCK go on so: set_restart_fn in the kernel.
    """
    if not code.endswith(_SYSCALL):
        return RESTART_SYSCALL
    numbers = [match[1][0] for match in _LOADED.finditer(code)]
    return numbers[-1] if numbers and numbers[-1] in _WITH_TIME_LEFT else RESTART_SYSCALL

"""Which call goes on by restart_syscall(2), told from the code that made it."""

import pytest

from dumper.state.restarted import RESTART_SYSCALL, restarted_call

SYSCALL = b"\x0f\x05"


def load(number: int) -> bytes:
    """mov $number, %eax"""
    return b"\xb8" + number.to_bytes(4, "little")


@pytest.mark.parametrize("number", [7, 35, 202, 230])
def test_the_number_is_in_the_code(number: int) -> None:
    assert restarted_call(b"\x90" * 8 + load(number) + SYSCALL) == number
    assert restarted_call(load(1) + load(number) + b"\x4d\x89\xca" + SYSCALL) == number  # mov %r9, %r10 in between


@pytest.mark.parametrize(
    "code",
    [
        bytes(32),
        load(230),  # no system call
        b"\x48\x89\xf8" + SYSCALL,  # syscall(3): the number comes in a register
        load(0) + SYSCALL,  # read(2) has no time left
        load(230) + load(0) + SYSCALL,
        b"\xb8\xe6\x01\x00\x00" + SYSCALL,  # another number, of two bytes
    ],
)
def test_what_cannot_be_told_stays_as_it_is(code: bytes) -> None:
    assert restarted_call(code) == RESTART_SYSCALL

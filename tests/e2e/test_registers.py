"""A dump holds the registers of every thread, general, floating point and extended."""

import struct
from pathlib import Path

import pytest

from formats.chain import Checkpoint
from formats.threadstate import Thread
from tests.harness import Target, predump

pytestmark = pytest.mark.usefixtures("targets")

PATTERN = 0x1122334455660000
THREADS = 4
XMM0_OFFSET = 160  # of the FXSAVE image: Intel SDM vol. 1, 10.5.1
XCR0_OFFSET = 464  # where ptrace puts the mask of enabled features in the extended state
AVX_FEATURE = 1 << 2
YMM_HIGH_OFFSET = 576  # of the standard format of XSAVE, on every processor with AVX


def expected(number: int) -> list[int]:
    return [PATTERN + 16 * number + k for k in range(4)]


def xmm(thread: Thread, register: int) -> list[int]:
    return list(struct.unpack_from("<2Q", thread.fpregs, XMM0_OFFSET + 16 * register))


def ymm_high(thread: Thread, register: int) -> list[int]:
    return list(struct.unpack_from("<2Q", thread.xstate, YMM_HIGH_OFFSET + 16 * register))


def test_registers_of_all_threads(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with Target.spawn("registers") as target:
        predump("dump", "-p", target.pid, "-D", checkpoint)
        tids = {int(entry.name) for entry in Path(f"/proc/{target.pid}/task").iterdir()}
    info = Checkpoint.open(checkpoint).round()
    threads = info.manifest.processes[0].threads
    assert {thread.tid for thread in threads} == tids

    spinning = sorted(
        (t for t in threads if t.registers["r12"] & ~0xFFFF == PATTERN), key=lambda thread: thread.registers["r12"]
    )
    assert len(spinning) == THREADS
    for number, thread in enumerate(spinning):
        values = expected(number)
        assert [thread.registers[name] for name in ("r12", "r13", "r14", "r15")] == values
        assert xmm(thread, 8) == values[:2]
        features = struct.unpack_from("<Q", thread.xstate, XCR0_OFFSET)[0]
        if features & AVX_FEATURE:
            assert ymm_high(thread, 9) == values[2:]
    leader = next(t for t in threads if t.tid == info.manifest.root_pid)
    assert leader.registers["orig_rax"] == 0, "the leader waits in read(2)"


def test_a_pre_dump_round_has_no_registers(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with Target.spawn("registers") as target:
        predump("pre-dump", "-p", target.pid, "-D", checkpoint)
    threads = Checkpoint.open(checkpoint).round().manifest.processes[0].threads
    assert len(threads) == THREADS + 1
    assert all(not t.registers and not t.xstate for t in threads)

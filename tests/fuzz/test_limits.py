"""Checkpoints as large as the format lets them be take bounded time and memory, measured from outside."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz.huge import HUGE, of_one_round
from tests.fuzz.readers import DAMAGED, NOT_THERE
from tests.fuzz.samples import write_files
from tests.harness import REPO
from tests.tally import Count, Tally

MAX_CPU_S = 6.0  # 1 to 2 on a machine of its own; it is a bound on what grows faster than the image
MAX_RESIDENT_KB = 208 << 10
MAX_RESIDENT_JSON_KB = 384 << 10  # all that the manifest says, once more as text
_ADDRESS_SPACE_BYTES = 4 << 30  # the machine of the test is not the enemy's to fill
_DEADLINE_S = 120


@dataclass(frozen=True)
class Measured:
    """A finished command: user time of the processor, and most of its resident memory."""

    exit_code: int
    stderr: str
    cpu_s: float
    resident_kb: int


# A process counts in what its memory was before exec(2), too: the one that starts the command must be a small one.
_MEASURE = """
import os, resource, sys
limit = int(sys.argv[1])
pid = os.fork()
if pid == 0:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_utime, usage.ru_maxrss)
"""


def measured(*words: object) -> Measured:
    """Run a command of predump to its end; what it says on stdout is lost."""
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, str(_ADDRESS_SPACE_BYTES), "-m", "cli", *map(str, words)]
    done = subprocess.run(
        command, cwd=REPO, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_S, check=True
    )
    exit_code, cpu_s, resident_kb = done.stdout.splitlines()[-1].split()
    return Measured(int(exit_code), done.stderr.decode(), float(cpu_s), int(resident_kb))


@cache
def start_s() -> float:
    """What Python and predump take to do nothing much."""
    return measured("inspect", "--help").cpu_s


def commands_on(checkpoint: Path, out: Path) -> list[tuple[object, ...]]:
    return [
        ("inspect", checkpoint),
        ("inspect", checkpoint, "--json"),
        ("verify", checkpoint),
        ("export", checkpoint, "--to", "core", "-o", out, "--torn"),
    ]


@pytest.mark.parametrize("what", HUGE)
def test_as_many_as_a_manifest_may_have(tmp_path: Path, tally: Tally, what: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_files(checkpoint, of_one_round(HUGE[what]()))
    problems = []
    for words in commands_on(checkpoint, tmp_path / "core"):
        done = measured(*words)
        cpu_s = done.cpu_s - start_s()
        if done.exit_code not in (0, *DAMAGED, *NOT_THERE) or "internal error" in done.stderr:
            problems.append(f"{words[0]}: exit code {done.exit_code}: {done.stderr[:1000]}")
        if cpu_s > MAX_CPU_S or done.resident_kb > (MAX_RESIDENT_JSON_KB if "--json" in words else MAX_RESIDENT_KB):
            problems.append(f"{words}: {cpu_s:.1f} s, {done.resident_kb >> 10} MiB")
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(problems)))
    assert problems == []

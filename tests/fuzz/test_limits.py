"""Checkpoints as large as the format lets them be take bounded time and memory, measured from outside."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuzz.huge import HUGE, of_one_round
from tests.fuzz.readers import DAMAGED, NOT_THERE
from tests.fuzz.samples import write_files
from tests.harness import REPO
from tests.tally import Count, Tally

MAX_CPU_S = 60  # 1 to 2 on a machine of its own; what grows faster than the image takes hours
MAX_RESIDENT_KB = 208 << 10
_ADDRESS_SPACE_BYTES = 4 << 30  # the machine of the test is not the enemy's to fill
_DEADLINE_S = 300


@dataclass(frozen=True)
class Measured:
    """A finished command: -SIGXCPU for one that had used up its time, and most of its resident memory."""

    exit_code: int
    stderr: str
    resident_kb: int


# A process counts in what its memory was before exec(2), too: the one that starts the command must be a small one.
_MEASURE = """
import os, resource, sys
max_bytes, max_cpu_s = map(int, sys.argv[1:3])
pid = os.fork()
if pid == 0:
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (max_cpu_s, max_cpu_s + 1))
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
    os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def measured(*words: object) -> Measured:
    """Run a command of predump to its end; what it says on stdout is lost."""
    limits = (str(_ADDRESS_SPACE_BYTES), str(MAX_CPU_S))
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, *limits, "-m", "cli", *map(str, words)]
    done = subprocess.run(
        command, cwd=REPO, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE_S, check=True
    )
    exit_code, resident_kb = done.stdout.splitlines()[-1].split()
    return Measured(int(exit_code), done.stderr.decode(), int(resident_kb))


def commands_on(checkpoint: Path, out: Path) -> list[tuple[object, ...]]:
    return [
        ("inspect", checkpoint),
        ("inspect", checkpoint, "--show", "all", "--sort", "written", "--json"),
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
        if done.exit_code not in (0, *DAMAGED, *NOT_THERE) or "internal error" in done.stderr:
            problems.append(f"{words[0]}: exit code {done.exit_code}: {done.stderr[:1000]}")
        if done.resident_kb > MAX_RESIDENT_KB:
            problems.append(f"{words}: {done.resident_kb >> 10} MiB")
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(problems)))
    assert problems == []

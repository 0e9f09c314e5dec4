"""The commands that read images, run in this process, and what the contract says of every end they may come to."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from cli import cli
from tests.fuzz.samples import MARKER, Sample

DAMAGED = (20, 21, 22)
"""Corrupt, of an unsupported version, a parent missing."""
WRITERS = ("export", "report")
"""Commands that write a file, whole or not at all."""
NOT_THERE = (1, 2)
"""The image is sound, but has not what is asked for: an address; a round, a process, or registers of one."""

MAX_CPU_S = 20.0  # 0.1 where all is well: what it tells is work without an end from a slow machine
MAX_GROWTH_KB = 170 << 10  # of resident memory: with what Python itself takes it stays below 200 MiB
_LINES_OF_AN_ERROR = 2
_TIMES = re.compile(rb'"duration_ns": [0-9]+')
_UNPRINTABLE = re.compile(r"[^\n\x20-\x7e\xa0-\U0010ffff]|[\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Ending:
    """How a command ended; `output` is what it printed or wrote, `written` whether OUT of one of WRITERS is there."""

    words: Words
    exit_code: int
    output: bytes
    stderr: str
    written: bool
    cpu_s: float
    growth_kb: int

    def problems(self, *, allowed: tuple[int, ...]) -> list[str]:
        """In what it breaks the contract, where it may end well or with one of `allowed`."""
        found = []
        if self.exit_code not in (0, *allowed):
            found.append(f"exit code {self.exit_code}")
        if "internal error" in self.stderr or "Traceback" in self.stderr:
            found.append("an internal error")
        if MARKER in self.stderr.encode(errors="surrogateescape") or MARKER.hex() in self.stderr:
            found.append("memory of the target in a message")
        if _UNPRINTABLE.search(self.stderr):
            found.append("an unprintable character in a message")
        if "--raw" not in self.words and not self.written and _UNPRINTABLE.search(self.output.decode(errors="replace")):
            found.append("an unprintable character in the output")
        if (
            self.exit_code
            and self.words[0] != "verify"
            and not 1 <= len(self.stderr.splitlines()) <= _LINES_OF_AN_ERROR
        ):
            found.append(f"{len(self.stderr.splitlines())} lines on stderr")
        if self.exit_code and self.words[0] in WRITERS and self.written:
            found.append("a file left behind")
        if self.cpu_s > MAX_CPU_S:
            found.append(f"{self.cpu_s:.1f} s")
        if self.growth_kb > MAX_GROWTH_KB:
            found.append(f"{self.growth_kb >> 10} MiB more")
        return [f"{what}: predump {' '.join(self.words)}\n{self.stderr[:2000]}" for what in found]


def commands_on(checkpoint: Path, sample: Sample, out: Path) -> list[Words]:
    """Every command that reads images, in every form of output."""
    path = str(checkpoint)
    reads = [("read", path, hex(addr), str(length), "--raw") for addr, length in sample.reads]
    addr, _ = sample.reads[0]
    return [
        ("inspect", path),
        ("inspect", path, "--json"),
        ("verify", path),
        ("verify", path, "--json"),
        *reads,
        ("read", path, hex(addr), "64", "--json", "--words"),
        ("read", path, hex(addr), "64"),
        ("read", path, hex(addr), "--string"),
        ("read", path, hex(addr), "64", "--round", "1"),
        ("diff", path, "1", "--bytes"),
        ("diff", path, "1", "--json"),
        ("export", path, "--to", "core", "-o", str(out)),
        ("export", path, "--to", "core", "-o", str(out), "--json", "--round", "1", "--torn"),
        ("report", path, "-o", str(out)),
        ("export", path, "--to", "core", "-o", str(out), "--complete"),
        ("export", path, "--to", "raw", "-o", str(out)),
        ("search", path, "the-secret", "-c"),
        ("search", path, "re:s[a-z]+|\\x00\\x00", "--all-rounds", "--all-processes", "-m", "50", "--json"),
        ("export", path, "--to", "criu", "-o", str(out)),
    ]


def run(words: Words, env: Mapping[str, str] | None = None) -> Ending:
    """Run a command as the entry point would, and see what it took."""
    out = Path(words[words.index("-o") + 1]) if words[0] in WRITERS else None
    if out is not None and out.is_dir():
        shutil.rmtree(out)
    elif out is not None:
        out.unlink(missing_ok=True)
    resident_kb = _reset_peak()
    start_s = time.process_time()
    result = CliRunner(env=env).invoke(cli, list(words))
    cpu_s = time.process_time() - start_s
    growth_kb = _memory_kb("VmHWM") - resident_kb
    written = out is not None and any(out.parent.iterdir())
    stderr = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        stderr += f"\nTraceback: {result.exception!r}"
    output = out.read_bytes() if out is not None and out.is_file() else _TIMES.sub(b"", result.stdout_bytes)
    return Ending(words, result.exit_code, output, stderr, written, cpu_s, growth_kb)


def _memory_kb(name: str) -> int:
    match = re.search(rf"^{name}:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


def _reset_peak() -> int:
    """Forget the peak of resident memory; returns what is resident, in kB."""
    fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
    try:
        os.write(fd, b"5")  # proc(5): resets VmHWM
    finally:
        os.close(fd)
    return _memory_kb("VmRSS")

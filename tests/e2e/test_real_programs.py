"""Programs that nobody wrote for predump: an interpreter, a JVM and node, captured while they work."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import is_untouched, poll_until, predump
from tests.oracle import compare

READY_S = 60.0

PYTHON = """
import ctypes, random
ctypes.CDLL(None).prctl(1, 9)
table = {}
print("ready", flush=True)
while True:
    table[random.randrange(200_000)] = [random.random(), "x" * random.randrange(100)]
"""
JAVA = """
public class Busy {
    public static void main(String[] arguments) throws Exception {
        java.util.HashMap<Integer, byte[]> table = new java.util.HashMap<>();
        System.out.println("ready");
        for (int i = 0; ; i++) {
            table.put(i % 2000, new byte[20000]);
            if (i % 100 == 0) Thread.sleep(5);
        }
    }
}
"""
NODE = """
const rows = [];
console.log("ready");
setInterval(() => { for (let i = 0; i < 1000; i++) rows[i] = { id: i, text: "y".repeat(100) }; }, 5);
"""


def command(program: str, directory: Path) -> list[str]:
    """How to start it; skips where the machine lacks it."""
    if program == "python":
        return [shutil.which("python3") or "python3", "-c", PYTHON]
    interpreter = shutil.which(program)
    if interpreter is None:
        pytest.skip(f"{program} is not installed")
    if program == "node":
        return [interpreter, "-e", NODE]
    source = directory / "Busy.java"
    source.write_text(JAVA)
    return [interpreter, "-Xmx256m", str(source)]


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("program", ["python", "java", "node"])
def test_a_busy_program_is_captured_and_goes_on(program: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with started(command(program, tmp_path)) as process:
        options = ("--interval", "100ms", "--max-freeze", "60s", "--leave-stopped")
        predump("run", "-t", process.pid, "-D", checkpoint, *options)
        found = compare(process.pid, checkpoint)
        assert not found.mismatches, str(found)
        predump("verify", checkpoint)
        os.kill(process.pid, signal.SIGCONT)
        poll_until(lambda: is_untouched(process.pid), READY_S, "the program to go on")
        predump("dump", "-t", process.pid, "-D", checkpoint)
        assert process.poll() is None

"""Programs that nobody wrote for predump: an interpreter, a JVM, node and Go, captured while they work."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import is_untouched, predump
from tests.matrix.ways import WAYS, assert_captured, each_way_in_turn
from tests.tally import Tally

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
GO = """
package main
import ("fmt"; "time")
func main() {
    table := map[int][]byte{}
    fmt.Println("ready")
    for i := 0; ; i++ {
        table[i%2000] = make([]byte, 20000)
        if i%100 == 0 { time.Sleep(5 * time.Millisecond) }
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
    if program == "go":
        return [str(go_program(directory))]
    interpreter = shutil.which(program)
    if interpreter is None:
        pytest.skip(f"{program} is not installed")
    if program == "node":
        return [interpreter, "-e", NODE]
    source = directory / "Busy.java"
    source.write_text(JAVA)
    return [interpreter, "-Xmx256m", str(source)]


def go_program(directory: Path) -> Path:
    """Built with what is there."""
    source, program = directory / "busy.go", directory / "busy"
    source.write_text(GO)
    for compiler, *options in (("go", "build"), ("gccgo",)):
        if shutil.which(compiler):
            subprocess.run([compiler, *options, "-o", str(program), str(source)], cwd=directory, check=True)
            return program
    pytest.skip("neither go nor gccgo is installed")


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


@pytest.mark.parametrize(("program", "way"), each_way_in_turn(["python", "java", "node", "go"]))
def test_a_busy_program_is_captured_and_goes_on(program: str, way: str, tmp_path: Path, tally: Tally) -> None:
    """Nobody needs to change it: it writes all the time."""
    checkpoint = tmp_path / "checkpoint"
    with started(command(program, tmp_path)) as process:

        def is_alive() -> None:
            assert process.poll() is None

        WAYS[way](process.pid, checkpoint, lambda _: None)
        assert_captured(process.pid, checkpoint, tally, is_alive)
        predump("dump", "-p", process.pid, "-D", checkpoint)
        assert is_untouched(process.pid)
        is_alive()

"""The commands of README.md, in their order, on one process with a child.

Those between two hosts are not among them: docs/pipelines.md has the same, and each runs in test_recipes.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import Shell
from tests.harness import COMMAND_S, REPO, is_untouched, live_tree, poll_until, predump
from tests.oracle import read_maps

PROGRAM = "import os\nos.fork()\ntable = {}\nwhile True: table[len(table) % 20000] = bytearray(500)"
NO_FILES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
COMMAND = re.compile(r"^ {4}\$ (predump .*?)(?: +#.*)?$", re.MULTILINE)


@pytest.fixture
def tree() -> Iterator[tuple[int, int]]:
    """CPython that keeps writing, and its child. It is reaped when it ends, and ended if it has come back since."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **NO_FILES) as process:
        reaper = threading.Thread(target=process.wait)
        try:
            poll_until(lambda: len(live_tree(process.pid)) == 2, COMMAND_S, "the child")
            _, child = live_tree(process.pid)
            reaper.start()
            yield process.pid, child
        finally:
            for pid in reversed(live_tree(process.pid)):
                os.kill(pid, signal.SIGKILL)
            reaper.join()


def test_all_commands_run_in_their_order(tree: tuple[int, int], tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.add("app-ctl", f"echo $1 >>{tmp_path}/app-ctl.log\n")
    pid, child = tree
    stack = next(mapping for mapping in read_maps(pid) if mapping.path == "[stack]")
    words = {"4711": pid, "4712": child, "/tmp/": f"{tmp_path}/", "0x7ffd1c0e2000": f"{stack.end_addr - 4096:#x}"}
    commands = COMMAND.findall((REPO / "README.md").read_text())
    assert len(commands) > 10
    for command in commands:
        line = command.replace("--duration 10s", "--duration 1s")
        for word, other in words.items():
            line = line.replace(word, str(other))
        said = shell.run(f"{line} || [ $? = 3 ]" if " run " in line else line)
        assert said, command
    assert (tmp_path / "app-ctl.log").read_text() == "pause\nresume\n"
    assert is_untouched(pid)
    assert is_untouched(child)
    for checkpoint in ("ck", "one", "tree"):
        predump("verify", tmp_path / checkpoint)


def test_what_is_said_of_python(tree: tuple[int, int], tmp_path: Path) -> None:
    text = (REPO / "README.md").read_text()
    (script,) = re.findall(r"^    from dumper import Policy.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    lines = [
        "from pathlib import Path",
        f"pid = {tree[0]}",
        *(line.removeprefix("    ") for line in script.split("\n")),
    ]
    words = [sys.executable, "-c", "\n".join(lines).replace("/tmp/", f"{tmp_path}/")]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predump("verify", tmp_path / "ck")

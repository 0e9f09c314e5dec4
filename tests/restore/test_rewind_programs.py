"""Real programs, and calls that wait, put back to an earlier dump."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.harness import Target, open_descriptors, poll_until, predump
from tests.redisserver import ask, needs_redis, redis_server

pytestmark = pytest.mark.usefixtures("targets")

PROGRAM = """
import sys, threading, time
history, lock = [], threading.Lock()
def work(number):
    while True:
        with lock:
            history.append((number, len(history)))
        time.sleep(0.001)
for number in range(3):
    threading.Thread(target=work, args=(number,), daemon=True).start()
words = open(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    with lock:
        wrong = sum(item[1] != place for place, item in enumerate(history))
        length = len(history)
    if line == "read\\n":
        print("ok", words.readline().strip(), flush=True)
    elif wrong:
        print("bad", wrong, flush=True)
    else:
        print("ok", length, flush=True)
"""


def sockets(pid: int) -> int:
    return sum(link.startswith("socket:") for link in open_descriptors(pid).values())


@needs_redis
def test_redis_forgets_what_was_set_since_and_serves_on(tmp_path: Path, checkpoint: Path) -> None:
    with redis_server(tmp_path, 4) as (process, port):
        pid = process.pid

        def wait_for_clients_to_be_gone() -> None:
            poll_until(lambda: sockets(pid) == listening, 30, "redis to close its connections")

        poll_until(lambda: sockets(pid) == 1, 30, "redis to listen only")
        listening = sockets(pid)
        ask(port, b"SET", b"counter", b"1")
        digest = ask(port, b"DEBUG", b"DIGEST")
        wait_for_clients_to_be_gone()
        predump("dump", "-p", pid, "-D", checkpoint)
        for turn in range(3):
            for key in range(200):
                assert ask(port, b"SET", b"later%d" % key, b"x" * 10_000) == b"+OK"
            assert ask(port, b"DEL", b"big1") == b":1"
            assert ask(port, b"INCR", b"counter") == b":2"
            wait_for_clients_to_be_gone()
            predump("rewind", "-p", pid, checkpoint)
            assert ask(port, b"DEBUG", b"DIGEST") == digest, f"turn {turn}"
            assert ask(port, b"EXISTS", b"later7") == b":0"
            assert ask(port, b"GET", b"counter") == b"$1"
        assert ask(port, b"BGSAVE").startswith(b"+Background")
        poll_until((tmp_path / "dump.rdb").exists, 30, "the background save")
        wait_for_clients_to_be_gone()
        predump("rewind", "-p", pid, checkpoint)
        assert ask(port, b"DEBUG", b"DIGEST") == digest


def test_cpython_with_threads_and_a_file(tmp_path: Path, checkpoint: Path) -> None:
    words = tmp_path / "words"
    words.write_text("".join(f"line {number}\n" for number in range(100)))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with Target.spawn(sys.executable, program, words) as target:
        assert target.command("read") == "ok line 0"
        predump("dump", "-p", target.pid, "-D", checkpoint)

        def length() -> int:
            return int(target.command("length").split()[1])

        then = length()
        for _ in range(2):
            assert target.command("read") == "ok line 1"
            poll_until(lambda: length() > then + 2000, 30, "the threads to go on")
            predump("rewind", "-p", target.pid, checkpoint)
            assert length() < then + 2000
            assert target.command("read") == "ok line 1"
            predump("rewind", "-p", target.pid, checkpoint)


def test_a_sleep_goes_on_and_ends_again(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with Target.spawn("rewind", path, 1) as target:
        target.send("wait")
        predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump")
        target.answer("wait")
        predump("rewind", "-p", target.pid, checkpoint)
        target.answer("wait")
        target.check()

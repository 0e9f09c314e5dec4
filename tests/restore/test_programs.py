"""Programs of others come back and go on with their work."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import sqlite3
import sys
import urllib.request
from pathlib import Path

import pytest

from tests import redisserver
from tests.alive import Lives
from tests.harness import children, is_alive, poll_until

WAIT_S = 20.0


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for_lines(path: Path, n_lines: int) -> None:
    poll_until(lambda: len(lines_of(path)) >= n_lines, WAIT_S, f"{n_lines} lines in {path}")


def die_and_come_back(lives: Lives, pid: int, checkpoint: Path) -> None:
    lives.dump(pid, checkpoint)
    assert lives.restore(checkpoint)[0] == pid


@redisserver.needs_redis
def test_redis_has_its_data_and_saves_it(lives: Lives, tmp_path: Path) -> None:
    port = redisserver.free_port()
    words = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", tmp_path)
    server = lives.start(redisserver.SERVER, "--port", port, *words, log=tmp_path / "log")
    poll_until(lambda: redisserver.answers(port), WAIT_S, "redis-server to answer")
    for key in range(200):
        redisserver.ask(port, b"SET", b"key%d" % key, b"value%d" % key)
    redisserver.ask(port, b"SET", b"short", b"lived", b"PX", b"2500")
    redisserver.ask(port, b"SET", b"long", b"lived", b"EX", b"1000")
    for number in range(2):
        die_and_come_back(lives, server, tmp_path / f"checkpoint-{number}")
        poll_until(lambda: redisserver.answers(port), WAIT_S, "redis-server to answer again")
        assert redisserver.ask(port, b"DBSIZE") in (b":202", b":201")
        redisserver.ask(port, b"SET", b"more%d" % number, b"x")
        redisserver.ask(port, b"DEL", b"more%d" % number)
    poll_until(lambda: redisserver.ask(port, b"EXISTS", b"short") == b":0", WAIT_S, "a key to expire")
    assert 0 < int(redisserver.ask(port, b"TTL", b"long")[1:]) <= 1000
    assert redisserver.ask(port, b"BGSAVE").startswith(b"+Background")
    poll_until(lambda: "rdb_bgsave_in_progress:0" in redisserver.info(port, "persistence"), WAIT_S, "the save to end")
    assert "rdb_last_bgsave_status:ok" in redisserver.info(port, "persistence")
    assert "aof_last_write_status:ok" in redisserver.info(port, "persistence")
    assert (tmp_path / "dump.rdb").stat().st_size > 0


PYTHON = """
import os, sys, tempfile, threading, time
directory = sys.argv[1]
out = open(f"{directory}/out", "w", buffering=1)
hidden = tempfile.TemporaryFile(); hidden.write(b"hidden"); hidden.flush()
lock, turns, condition = threading.Lock(), [0] * 4, threading.Condition()
def work(index):
    while True:
        with condition: condition.wait(0.01)
        with lock: turns[index] += 1
threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(4)]
for thread in threads: thread.start()
while True:
    before = list(turns); time.sleep(0.05)
    with condition: condition.notify_all()
    hidden.seek(0)
    good = hidden.read() == b"hidden" and all(thread.is_alive() for thread in threads)
    good = good and threading.main_thread().native_id == os.getpid()
    out.write(f"{int(good)} {int(min(turns) > 0)}\\n")
"""


def test_python_has_its_threads_and_files(lives: Lives, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pid = lives.start(sys.executable, "-c", PYTHON, tmp_path, log=tmp_path / "log")
    wait_for_lines(out, 5)
    for number in range(2):
        die_and_come_back(lives, pid, tmp_path / f"checkpoint-{number}")
        wait_for_lines(out, len(lines_of(out)) + 5)
    assert set(lines_of(out)[5:]) == {"1 1"}
    assert lines_of(tmp_path / "log") == []


SQLITE = """
import pathlib, sqlite3, sys, time
directory = pathlib.Path(sys.argv[1])
base = sqlite3.connect(directory / "base", isolation_level=None)
base.execute("create table t (x)")
base.execute("begin immediate")
base.executemany("insert into t values (?)", [(i,) for i in range(1000)])
(directory / "out").write_text("begun\\n")
while not (directory / "go").exists(): time.sleep(0.01)
base.executemany("insert into t values (?)", [(i,) for i in range(1000, 2000)])
base.execute("commit")
(directory / "out").write_text("begun\\ndone\\n")
"""


def test_sqlite_ends_the_transaction_that_it_was_in(lives: Lives, tmp_path: Path) -> None:
    pid = lives.start(sys.executable, "-c", SQLITE, tmp_path, log=tmp_path / "log")
    wait_for_lines(tmp_path / "out", 1)
    die_and_come_back(lives, pid, tmp_path / "checkpoint")
    with (
        sqlite3.connect(tmp_path / "base", timeout=0) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("begin immediate")  # the lock is back, too
    (tmp_path / "go").touch()
    wait_for_lines(tmp_path / "out", 2)
    with sqlite3.connect(tmp_path / "base") as other:
        assert other.execute("select count(*), sum(x) from t").fetchone() == (2000, sum(range(2000)))


def test_a_shell_goes_on_with_its_pipeline(lives: Lives, tmp_path: Path) -> None:
    script = (
        'i=0; while [ ! -e "$1/stop" ]; do echo $((i += 1)); sleep 0.02; done | while read -r n; do echo "$n"; done'
    )
    out = tmp_path / "out"
    pid = lives.start("bash", "-c", f"{script}; echo end", "bash", tmp_path, log=out)
    wait_for_lines(out, 5)
    for number in range(2):
        die_and_come_back(lives, pid, tmp_path / f"checkpoint-{number}")
        wait_for_lines(out, len(lines_of(out)) + 5)
    (tmp_path / "stop").touch()
    poll_until(lambda: lines_of(out)[-1] == "end", WAIT_S, "the pipeline to end")
    numbers = [int(line) for line in lines_of(out)[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))


NGINX = """
daemon off; worker_processes 2; pid {0}/pid; error_log {0}/error.log; user root;
events {{ worker_connections 64; }}
http {{
  access_log {0}/access.log; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2; fastcgi_temp_path {0}/t3;
  uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5;
  server {{ listen 127.0.0.1:{1}; root {0}/www; }}
}}
"""


def fetched(port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=5) as answer:
            content = answer.read()
            assert isinstance(content, bytes)
            return content
    except (OSError, http.client.HTTPException):
        return b""


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_goes_on_with_its_workers(lives: Lives, tmp_path: Path) -> None:
    port = redisserver.free_port()
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "page").write_text("as ever")
    (tmp_path / "conf").write_text(NGINX.format(tmp_path, port))
    pid = lives.start("nginx", "-c", tmp_path / "conf", log=tmp_path / "log")
    poll_until(lambda: fetched(port) == b"as ever", WAIT_S, "nginx to answer")
    for number in range(2):
        workers = children(pid)
        die_and_come_back(lives, pid, tmp_path / f"checkpoint-{number}")
        assert children(pid) == workers
        assert all(fetched(port) == b"as ever" for _ in range(10))
    os.kill(next(iter(workers)), signal.SIGKILL)
    poll_until(lambda: len(children(pid)) == 2 and children(pid) != workers, WAIT_S, "the master to replace a worker")
    os.kill(pid, signal.SIGHUP)
    poll_until(lambda: len(children(pid) - workers) == 2, WAIT_S, "new workers for the configuration")
    assert fetched(port) == b"as ever"


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK is installed")
def test_a_jvm_goes_on(lives: Lives, tmp_path: Path) -> None:
    (tmp_path / "Ticks.java").write_text(
        "public class Ticks { public static void main(String[] a) throws Exception {"
        " java.util.List<byte[]> kept = new java.util.ArrayList<>();"
        " for (int i = 1; ; i++) { kept.add(new byte[1000]); if (i % 50 == 0) { kept.clear(); System.gc(); }"
        " System.out.println(i); Thread.sleep(20); } } }"
    )
    out = tmp_path / "out"
    options = ("-Xmx64m", "-XX:+UseSerialGC")
    pid = lives.start("java", *options, tmp_path / "Ticks.java", log=out)
    poll_until(lambda: len(lines_of(out)) > 5, 60, "the program to begin")
    die_and_come_back(lives, pid, tmp_path / "checkpoint")
    wait_for_lines(out, len(lines_of(out)) + 60)
    assert [int(line) for line in lines_of(out)] == list(range(1, len(lines_of(out)) + 1))


def test_a_process_that_was_to_end_with_its_parent_does_not_end_with_predump(lives: Lives, tmp_path: Path) -> None:
    script = "import ctypes, time\nctypes.CDLL(None).prctl(1, 9)\nprint('set', flush=True)\ntime.sleep(1000)"
    pid = lives.start(sys.executable, "-c", script, log=tmp_path / "log")
    wait_for_lines(tmp_path / "log", 1)
    die_and_come_back(lives, pid, tmp_path / "checkpoint")
    assert is_alive(pid)

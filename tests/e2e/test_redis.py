"""A database under load: no client sees an error while it is dumped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from formats.layout import PAGE_BYTES
from tests.harness import is_untouched, number, poll_until, predump
from tests.oracle import compare
from tests.redisserver import VALUE_BYTES, ask, commands_done, load, needs_redis, redis_server

pytestmark = needs_redis


def test_run_under_load(tmp_path: Path) -> None:
    log = tmp_path / "benchmark.log"
    with redis_server(tmp_path, 50) as (server, port):
        with load(port, "-c", "20", log=log) as benchmark:
            done = predump("run", "-p", server.pid, "-D", tmp_path / "checkpoint", "--json", check=False)

            assert done.returncode in (0, 3), str(done)  # 3: complete, though the freeze was long
            assert done.result["type"] == "result"
            after = commands_done(port)
            poll_until(lambda: commands_done(port) > after + 10000, 30, "the benchmark to go on")
            assert benchmark.poll() is None, log.read_text(errors="replace")
        assert "rror" not in log.read_text(errors="replace")
        assert is_untouched(server.pid)
        assert ask(port, b"STRLEN", b"big0") == b":%d" % VALUE_BYTES
        predump("verify", tmp_path / "checkpoint")
        predump("detach", "-p", server.pid)
        assert server.poll() is None, "redis-server has ended"


def test_dumps_in_a_row_under_load(tmp_path: Path) -> None:
    """Each holds what was written since the one before, and little of what nobody touches."""
    checkpoint, log, n_values = tmp_path / "checkpoint", tmp_path / "benchmark.log", 50
    untouched_pages = n_values * VALUE_BYTES // PAGE_BYTES
    with redis_server(tmp_path, n_values) as (server, port):
        with load(port, "-r", "1000", log=log) as benchmark:
            words = ("-p", server.pid, "-D", checkpoint, "--keep-tracking", "--json")
            predump("dump", *words)
            for _ in range(3):
                done = predump("dump", *words)
                assert done.result["full"] is False
                assert number(done.result, "pages_data") < untouched_pages // 2, str(done)
            after = commands_done(port)
            poll_until(lambda: commands_done(port) > after + 1000, 30, "the benchmark to go on")
            assert benchmark.poll() is None, log.read_text(errors="replace")
        assert "rror" not in log.read_text(errors="replace")
        predump("flatten", checkpoint, "--drop", "--keep", 1)
        predump("dump", "-p", server.pid, "-D", checkpoint, "--leave-stopped")
        found = compare(server.pid, checkpoint)
        os.kill(server.pid, signal.SIGCONT)
        assert not found.mismatches, str(found)
        poll_until(lambda: is_untouched(server.pid), 10, "redis-server to go on")
        predump("verify", checkpoint)

"""A database under load: no client sees an error while it is dumped."""

from __future__ import annotations

from pathlib import Path

from tests.harness import is_untouched, poll_until, predump
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

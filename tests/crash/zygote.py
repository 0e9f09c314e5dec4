"""Hundreds of commands in little time: a process that has everything imported forks for each of them.

It has one thread, as a fork wants it. A child runs the whole command line, from `cli.main` to its exit code.

    request  {"args", "die_at", "fail_call", "kill_after_s", "limits", "stdout", "stderr"}, one line of JSON
    answers  {"pid"} at once, {"returncode", "duration_s"} at its end
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from tests.harness import COMMAND_S, PREDUMP_S, REPO, Predump, parse_events

Json = dict[str, object]


# ---- the process that forks ----


def _become_predump(request: Json) -> NoReturn:
    import cli  # noqa: PLC0415 -- loaded already
    from formats import faults  # noqa: PLC0415

    code: object = 99
    try:
        for number, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
            fd = os.open(str(path), os.O_RDWR | os.O_APPEND)
            os.dup2(fd, number)
            os.close(fd)
        os.environ[faults.VARIABLE] = str(request["die_at"])  # the keeper finds it there
        faults.die_at(str(request["die_at"]))
        faults.fail_call(str(request["fail_call"]))
        limits = request["limits"]
        assert isinstance(limits, dict)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
        args = request["args"]
        assert isinstance(args, list)
        sys.argv = ["predump", *args]
        cli.main()
    except SystemExit as end:
        code = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def _serve() -> None:
    import cli  # noqa: F401, PLC0415
    import restorer.rewind.rewind  # noqa: F401, PLC0415

    for line in sys.stdin:
        request = json.loads(line)
        since_s = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _become_predump(request)
        _say({"pid": pid})
        if request["kill_after_s"] is not None:
            pidfd = os.pidfd_open(pid)
            if not select.select([pidfd], [], [], request["kill_after_s"])[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        _say({"returncode": os.waitstatus_to_exitcode(status), "duration_s": time.monotonic() - since_s})


def _say(answer: Json) -> None:
    print(json.dumps(answer), flush=True)


# ---- what the tests have of it ----


class RunningCommand:
    """A command under way, until `finish`."""

    def __init__(self, zygote: Zygote, args: tuple[str, ...], pid: int) -> None:
        self._zygote = zygote
        self.args = args
        self.pid = pid

    def finish(self) -> Predump:
        """Wait for the end; one that was not killed must have ended by the contract."""
        answer = self._zygote.answer(PREDUMP_S)
        self._zygote.last_duration_s = float(str(answer["duration_s"]))
        stdout, stderr = (path.read_text() for path in self._zygote.outputs)
        done = Predump(self.args, int(str(answer["returncode"])), stdout, stderr, [])
        assert "Traceback" not in stderr, str(done)
        assert "internal error" not in stderr, str(done)
        if done.returncode >= 0:
            done.events.extend(parse_events(stdout))
        return done


class Zygote:
    """Runs `predump ARGS --json`, one command at a time."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self.outputs = (directory / "stdout", directory / "stderr")
        self.last_duration_s = 0.0

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Zygote]:
        """It ends with the block."""
        with tempfile.TemporaryDirectory(prefix="predump-test-") as name:
            words = [sys.executable, "-m", "tests.crash.zygote"]
            with subprocess.Popen(words, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                try:
                    yield cls(process, Path(name))
                finally:
                    process.kill()

    def answer(self, deadline_s: float) -> Json:
        """The next answer of the process that forks."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], deadline_s)
        assert ready, f"a command did not end within {deadline_s} s"
        found = json.loads(self._process.stdout.readline())
        assert isinstance(found, dict)
        return found

    def begin(
        self,
        *args: object,
        die_at: str = "",
        fail_call: str = "",
        kill_after_s: float | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> RunningCommand:
        """Start the command. `die_at`: a point, for it or for the keeper that it starts; `fail_call`: the injected
        call that fails; `limits`: RLIMIT_* of it.
        """
        words = (*map(str, args), "--json")
        for path in self.outputs:
            path.unlink(missing_ok=True)  # a command before may have left somebody who still writes
            path.touch()
        request = {
            "args": words,
            "die_at": die_at,
            "fail_call": fail_call,
            "kill_after_s": kill_after_s,
            "limits": dict(limits or {}),
            "stdout": str(self.outputs[0]),
            "stderr": str(self.outputs[1]),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return RunningCommand(self, words, int(str(self.answer(COMMAND_S)["pid"])))

    def run(
        self,
        *args: object,
        expect: int | None = 0,
        die_at: str = "",
        fail_call: str = "",
        kill_after_s: float | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Predump:
        """The command from its start to its end; AssertionError unless it exits with `expect`, if that is given."""
        begun = self.begin(*args, die_at=die_at, fail_call=fail_call, kill_after_s=kill_after_s, limits=limits)
        done = begun.finish()
        assert expect is None or done.returncode == expect, f"exit code {expect} was expected\n{done}"
        return done


if __name__ == "__main__":
    _serve()

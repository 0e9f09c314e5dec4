"""Clocks that count from the boot, in a time namespace of the restored processes: they go on from where they were."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumper.restoretrials import try_time_namespace
from formats.checkpoint import Checkpoint
from formats.manifest import Manifest
from restorer.clocks import Readings
from restorer.errors import RestoreFailed
from restorer.restore import Restoration, RestoreOptions
from tests.alive import Lives
from tests.answering import Answering, interpreter
from tests.harness import COMMAND_S, poll_until, predump

AHEAD_S = 100_000
SET_UP = """
import ctypes, time, threading
libc = ctypes.CDLL(None)
numbers = (ctypes.c_long * 2)()
ask = lambda clock: (libc.syscall(228, clock, numbers), numbers[0] + numbers[1] / 1e9)[1]
waited = []
wait = lambda: (threading.Event().wait(1.5), waited.append(time.clock_gettime(1)))
"""
MONOTONIC, BOOTTIME = 1, 7
TOLERANCE_S = 0.001  # between readings of two clocks


@pytest.fixture(autouse=True)
def possible() -> None:
    try:
        try_time_namespace()
    except OSError as error:
        pytest.skip(f"no time namespaces here: {error}")


@pytest.fixture
def sleeper(lives: Lives, tmp_path: Path) -> Iterator[Answering]:
    """In a time namespace, so that none of its clocks is near to those of the machine."""
    offsets = (f"--monotonic={AHEAD_S}", f"--boottime={2 * AHEAD_S}")
    with interpreter(lives, tmp_path, *SET_UP.strip().splitlines(), prefix=("unshare", "--time", *offsets)) as target:
        yield target


def shown(target: Answering, clock: int) -> float:
    """By the vdso, which says the same as the kernel."""
    quick, asked = float(target.ask(f"time.clock_gettime({clock})")), float(target.ask(f"ask({clock})"))
    assert 0 <= asked - quick < COMMAND_S
    return quick


def dumped_at(manifest: Manifest) -> tuple[float, float]:
    """When it was taken, as the machine's clocks say."""
    assert manifest.clocks
    return manifest.clocks.monotonic_ns / 1e9, manifest.clocks.boottime_ns / 1e9


def check_clocks(target: Answering, manifest: Manifest, restored: tuple[float, float]) -> None:
    """They stood still from the dump on to a moment of the restore, which took place between those of `restored`."""
    for clock, ahead_s, at_dump in zip((MONOTONIC, BOOTTIME), (AHEAD_S, 2 * AHEAD_S), dumped_at(manifest), strict=True):
        suspended = time.clock_gettime(clock) - time.monotonic()  # what CLOCK_BOOTTIME has more
        earliest, latest = (moment + suspended - at_dump for moment in restored)
        before = time.clock_gettime(clock)
        read = shown(target, clock) - ahead_s
        after = time.clock_gettime(clock)
        assert after - read >= earliest
        assert before - read <= latest + TOLERANCE_S


def shown_at_dump(manifest: Manifest) -> float:
    (process,) = manifest.processes
    assert process.state
    assert manifest.clocks
    return (manifest.clocks.monotonic_ns + process.state.monotonic_offset_ns) / 1e9


def test_clocks_go_on_from_where_they_were(sleeper: Answering, lives: Lives, tmp_path: Path) -> None:
    sleeper.ask("threading.Thread(target=wait).start()")
    began = shown(sleeper, MONOTONIC)
    manifest = sleeper.die(tmp_path / "checkpoint")
    since = time.monotonic()
    sleeper.come_back(tmp_path / "checkpoint", "--time-namespace")
    check_clocks(sleeper, manifest, (since, time.monotonic()))
    # A wait until a moment of that clock, which would be far away by the machine's.
    poll_until(lambda: sleeper.ask("len(waited)") == "1", COMMAND_S, "the thread to have waited")
    assert float(sleeper.ask("waited[0]")) > began + 1
    manifest = sleeper.die(tmp_path / "second")
    at_dump = shown_at_dump(manifest)
    sleeper.pid = lives.restore(tmp_path / "second", "--time-namespace", "--pid-namespace")[0]
    assert at_dump <= shown(sleeper, MONOTONIC) < at_dump + COMMAND_S


def test_without_one_it_is_told(sleeper: Answering, tmp_path: Path) -> None:
    sleeper.die(tmp_path / "checkpoint")
    shown_restore = predump("inspect", tmp_path / "checkpoint", "--show", "restore").stdout
    assert "time namespace" in shown_restore
    checked = predump("restore", tmp_path / "checkpoint", "--check").stdout
    assert "(CLOCK_MONOTONIC) go back by" in checked
    assert "time namespace" in checked
    with_one = predump("restore", tmp_path / "checkpoint", "--check", "--time-namespace").stdout
    assert "CLOCK_MONOTONIC" not in with_one
    assert "time namespace" not in with_one
    sleeper.come_back(tmp_path / "checkpoint")
    assert abs(shown(sleeper, MONOTONIC) - time.monotonic()) < COMMAND_S


@pytest.mark.parametrize("ns", [1 << 63, -(1 << 63)])
def test_clocks_that_there_cannot_be(ns: int, lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with interpreter(lives, tmp_path) as target:
        target.die(tmp_path / "checkpoint")
    monkeypatch.setattr("restorer.restore.shown_to", lambda *_: Readings(ns, ns))
    options = RestoreOptions(time_namespace=True)
    images = Checkpoint.open(tmp_path / "checkpoint")
    with Restoration(images, None, options, [].append) as restoration, pytest.raises(RestoreFailed, match="clocks"):
        restoration.build()

"""A live process that is put back to an earlier dump of itself, and goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import (
    NOBODY,
    TARGETS,
    Predump,
    Target,
    is_stopped,
    is_untouched,
    number,
    poll_until,
    predump,
    unprivileged_python,
)

pytestmark = pytest.mark.usefixtures("targets")

CHANGES = (
    "memory",
    "heap",
    "map",
    "unmap",
    "protect",
    "guard",
    "file",
    "signals",
    "timers",
    "counts",
    "shared",
    "name",
)
N_WORKERS = 4


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """A process with all that a rewind is about."""
    path = tmp_path / "read"
    path.write_bytes(bytes(range(256)) * 4)
    with Target.spawn("rewind", path, N_WORKERS) as target:
        yield target


def dump(target: Target, checkpoint: Path, *options: str) -> int:
    return number(predump("dump", "-p", target.pid, "-D", checkpoint, "--json", *options).result, "round")


def rewind(target: Target, checkpoint: Path, *options: object, expect: int = 0) -> Predump:
    return predump("rewind", "-p", target.pid, checkpoint, "--json", *options, expect=expect)


def count(target: Target) -> int:
    return int(target.command("count").split()[1])


def assert_as_dumped(target: Target, checkpoint: Path, round_: int) -> None:
    """A dump of the process, stopped as it came back, is the same as the one that it came back to."""
    again = dump(target, checkpoint, "--no-pre-dump")
    said = predump("diff", checkpoint, round_, again, "--json")
    changed = [event for event in said.events if event["type"] in ("mapping-diff", "bytes-diff")]
    assert changed == [], str(said)


@pytest.mark.parametrize(
    "changes", [CHANGES, *(pytest.param((what,), marks=pytest.mark.thorough) for what in CHANGES)], ids="+".join
)
def test_what_changed_is_put_back(target: Target, checkpoint: Path, changes: tuple[str, ...]) -> None:
    before = target.command("state")
    round_ = dump(target, checkpoint)
    for what in changes:
        target.command(f"change {what}")
    assert target.command("state") != before
    rewind(target, checkpoint, "--stopped")
    assert_as_dumped(target, checkpoint, round_)
    os.kill(target.pid, signal.SIGCONT)
    assert target.command("state") == before
    target.check()


def test_all_of_it_five_times_in_a_row(target: Target, checkpoint: Path) -> None:
    before = target.command("state")
    dump(target, checkpoint)
    rounds = count(target)
    for _ in range(5):
        poll_until(lambda: count(target) > rounds + 100 * N_WORKERS, 30, "the workers to go on")
        for what in CHANGES:
            target.command(f"change {what}")
        said = rewind(target, checkpoint)
        assert number(said.result, "pages_put_back") > N_WORKERS, str(said)
        assert is_untouched(target.pid)
        assert target.command("state") == before
    assert count(target) < rounds + 100_000
    target.check()


@pytest.mark.parametrize(
    ("what", "named"), [("thread", "threads"), ("open", "descriptor"), ("child", "uses it, too (--shared)")]
)
def test_what_cannot_be_put_back_is_refused(target: Target, checkpoint: Path, what: str, named: str) -> None:
    target.command("state")
    dump(target, checkpoint)
    target.command(f"change {what}")
    target.command("change shared")
    changed = target.command("state")
    assert named in str(rewind(target, checkpoint, expect=1).result["message"])
    assert is_untouched(target.pid)
    assert target.command("state") == changed


def test_what_others_share_is_put_back_or_not_as_the_user_says(target: Target, checkpoint: Path) -> None:
    before = target.command("state")
    dump(target, checkpoint)
    target.command("change child")
    target.command("change shared")
    target.command("change file")
    changed = target.command("state").replace("cloexec=1", "cloexec=0")
    said = rewind(target, checkpoint, "--shared", "never").result["left"]
    assert isinstance(said, list)
    assert sum("content of" in one for one in said) == 2
    assert sum("offset" in one for one in said) == 1
    assert sum("child" in one for one in said) == 1
    assert target.command("state") == changed
    rewind(target, checkpoint, "--shared", "always")
    assert target.command("state") == before


def test_a_check_changes_nothing(target: Target, checkpoint: Path) -> None:
    dump(target, checkpoint)
    for what in CHANGES:
        target.command(f"change {what}")
    changed = target.command("state")
    said = rewind(target, checkpoint, "--check")
    assert (number(said.result, "mappings_added"), number(said.result, "mappings_removed")) == (1, 2)
    assert said.result["changed"] is False
    assert target.command("state") == changed


def test_the_last_dump_is_meant_where_none_is_named(target: Target, checkpoint: Path) -> None:
    first = dump(target, checkpoint)
    before = target.command("state")
    target.command("change memory")
    between = target.command("state")
    second = dump(target, checkpoint, "--no-pre-dump")
    target.command("change memory")
    predump("pre-dump", "-p", target.pid, "-D", checkpoint)
    assert number(rewind(target, checkpoint).result, "round") == second
    assert target.command("state") == between
    rewind(target, checkpoint, "--round", first)
    assert target.command("state") == before
    assert "pre-dump" in str(rewind(target, checkpoint, "--round", second + 1, expect=2).result["message"])


def test_only_the_process_itself_can_be_put_back(target: Target, checkpoint: Path, tmp_path: Path) -> None:
    dump(target, checkpoint)
    with Target.spawn("rewind", tmp_path / "read", 1) as other:
        assert "has no process" in str(rewind(other, checkpoint, expect=2).result["message"])
    target.check()
    rewind(target, checkpoint, expect=10)


def test_an_image_that_others_may_write_to_is_not_trusted(target: Target, checkpoint: Path) -> None:
    before = target.command("state")
    dump(target, checkpoint)
    target.command("change memory")
    changed = target.command("state")
    checkpoint.chmod(0o777)
    assert "can be written to by others" in str(rewind(target, checkpoint, expect=11).result["message"])
    assert target.command("state") == changed
    rewind(target, checkpoint, "--trust")
    assert target.command("state") == before


def test_damage_is_found_before_anything_is_changed(target: Target, checkpoint: Path) -> None:
    round_ = dump(target, checkpoint, "--no-pre-dump")
    target.command("change memory")
    changed = target.command("state")
    (pages,) = (checkpoint / f"{round_:04}").glob(f"pages-{target.pid}*")
    content = bytearray(pages.read_bytes())
    content[len(content) // 2] ^= 1
    pages.write_bytes(content)
    rewind(target, checkpoint, expect=20)
    assert is_untouched(target.pid)
    assert target.command("state") == changed


def test_tracking_goes_on(target: Target, checkpoint: Path) -> None:
    predump("pre-dump", "-p", target.pid, "-D", checkpoint)
    round_ = dump(target, checkpoint, "--keep-tracking")
    for what in ("memory", "heap", "unmap", "protect"):
        target.command(f"change {what}")
    rewind(target, checkpoint, "--stopped")
    again = dump(target, checkpoint)
    said = predump("diff", checkpoint, round_, again, "--json")
    assert [event for event in said.events if event["type"] == "mapping-diff"] == [], str(said)
    predump("verify", checkpoint)
    os.kill(target.pid, signal.SIGCONT)
    target.check()


def test_it_stays_stopped_if_it_is_wanted(target: Target, checkpoint: Path) -> None:
    dump(target, checkpoint)
    rewind(target, checkpoint, "--stopped")
    poll_until(lambda: is_stopped(target.pid), 10, "it to stop")
    rewind(target, checkpoint)
    assert is_stopped(target.pid)
    os.kill(target.pid, signal.SIGCONT)
    target.check()


def test_its_owner_needs_no_privilege() -> None:
    python, env = unprivileged_python()
    with tempfile.TemporaryDirectory(prefix="predump-test-") as name:
        directory = Path(name)
        directory.chmod(0o1777)
        program, path = shutil.copy(TARGETS / "bin" / "rewind", name), directory / "read"
        path.write_bytes(bytes(1000))
        path.chmod(0o666)
        with Target.spawn(str(shutil.which("setpriv")), *NOBODY[1:], program, path, 2) as target:
            before = target.command("state")
            predump("dump", "-p", target.pid, "-D", directory / "ck", prefix=python, env=env)
            for what in CHANGES:
                target.command(f"change {what}")
            predump("rewind", "-p", target.pid, directory / "ck", prefix=python, env=env)
            assert target.command("state") == before
            target.check()

"""Checkpoints of another user: nobody is led to files that the image's owner could not reach, or to write there."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.roundwriter import RoundWriter, remove_unfinished
from tests.e2e.test_bad_input import unprivileged_python
from tests.fuzz.conftest import Bench
from tests.fuzz.readers import DAMAGED, run
from tests.fuzz.samples import write_files
from tests.harness import Predump, Target, predump
from tests.tally import Count, Tally

NOBODY = 65534
SECRET = b"root:only-root-may-read-this:"
LAST = "0003"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory like /tmp: everyone may write to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to be two users")
    with tempfile.TemporaryDirectory(prefix="predump-test-") as name:
        Path(name).chmod(0o1777)
        yield Path(name)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of root's."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def give_to_nobody(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def is_secret_shown(done: Predump) -> bool:
    return SECRET.decode() in done.stdout + done.stderr or SECRET.hex() in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["manifest.json", "pages-42.zst", "pagemap-42.zst", "pages-object-1.zst", ""])
def test_root_is_not_led_to_files_of_his(
    made_by_hand: Bench, tally: Tally, shared: Path, secret: Path, name: str
) -> None:
    checkpoint = shared / "checkpoint"
    write_files(checkpoint, made_by_hand.sample.files)
    if name:
        (checkpoint / LAST / name).unlink()
        (checkpoint / LAST / name).symlink_to(secret)
    else:
        (checkpoint / LAST).rename(secret.parent / LAST)
        (checkpoint / LAST).symlink_to(secret.parent / LAST)
    give_to_nobody(checkpoint)
    endings = [run((words[0], str(checkpoint), *words[2:])) for words in made_by_hand.words]
    problems = [problem for ending in endings for problem in ending.problems(allowed=DAMAGED)]
    problems += [f"shown: {e.words}" for e in endings if SECRET in e.output or SECRET.decode() in e.stderr]
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(problems)))
    assert problems == []
    assert next(ending.exit_code for ending in endings if ending.words[0] == "verify") == 20


def test_another_user_is_not_led_either(made_by_hand: Bench, shared: Path) -> None:
    """The other way round: root's checkpoint, open to all, with links into a directory of the reader's."""
    prefix, env = unprivileged_python()
    checkpoint, own = shared / "checkpoint", shared / "own"
    write_files(checkpoint, made_by_hand.sample.files)
    (checkpoint / LAST).rename(own)
    (checkpoint / LAST).symlink_to(own)
    checkpoint.chmod(0o755)
    for path in checkpoint.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    give_to_nobody(own)
    for command in (("inspect", checkpoint), ("verify", checkpoint), ("read", checkpoint, "0x7f0000000000", 64)):
        predump(*command, prefix=prefix, env=env, expect=20)


def test_a_checkpoint_that_may_not_be_read(made_by_hand: Bench, shared: Path) -> None:
    """One sentence on what may not be done, and exit code 1: it is not damaged."""
    prefix, env = unprivileged_python()
    checkpoint = shared / "checkpoint"
    write_files(checkpoint, made_by_hand.sample.files)
    for mode in (0o000, 0o444, 0o711):
        checkpoint.chmod(mode)
        for command in (("inspect", checkpoint), ("verify", checkpoint), ("read", checkpoint, "0x7f0000000000", 64)):
            done = predump(*command, prefix=prefix, env=env, check=False)
            assert done.returncode == 1, str(done)
            assert "Permission denied" in done.stderr, str(done)
            assert len(done.stderr.splitlines()) == 2, str(done)


def test_what_is_tidied_up_is_no_link(tmp_path: Path, made_by_hand: Bench) -> None:
    """A link in the place of an unfinished round leads to a round that somebody is writing just now."""
    other = RoundWriter(tmp_path / "other", 1)
    other.open_process(42)
    checkpoint = tmp_path / "checkpoint"
    write_files(checkpoint, made_by_hand.sample.files)
    (checkpoint / "0004").symlink_to(other.path)
    assert remove_unfinished(checkpoint) == []
    assert len(list(other.path.iterdir())) == 2
    other.abandon()


def test_a_mode_is_not_given_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the directory above puts a link in the place of the round that was made just now."""
    victim = tmp_path / "victim"
    victim.mkdir(0o755)
    victim.chmod(0o755)
    made = os.mkdir

    def exchanged(path: Path, mode: int) -> None:
        made(path, mode)
        if path.name == "0001":
            path.rmdir()
            path.symlink_to(victim)

    monkeypatch.setattr(os, "mkdir", exchanged)
    with pytest.raises(Exception, match="Cannot create the directory"):
        RoundWriter(tmp_path / "checkpoint", 1)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o755
    assert list(victim.iterdir()) == []


@pytest.mark.usefixtures("targets")
class TestWriters:
    """-D names something that another user has prepared in a directory like /tmp."""

    @pytest.mark.parametrize("command", ["pre-dump", "dump"])
    def test_rounds_and_their_files_are_secrets(self, shared: Path, command: str) -> None:
        checkpoint = shared / "checkpoint"
        checkpoint.mkdir(0o777)
        checkpoint.chmod(0o777)
        give_to_nobody(checkpoint)
        with Target.spawn("idle", 1, 1, 0) as target:
            predump(command, "-p", target.pid, "-D", checkpoint)
        for path in checkpoint.rglob("*"):
            status = path.lstat()
            assert status.st_uid == 0, path
            assert stat.S_IMODE(status.st_mode) == (0o700 if path.is_dir() else 0o600), path

    @pytest.mark.parametrize("name", ["0001", "0001/manifest.json", "0001/manifest.json.tmp", "0001/pages-7.zst"])
    def test_nothing_is_written_or_removed_through_a_link(self, shared: Path, secret: Path, name: str) -> None:
        """Refused, or taken out of the way without looking at what it leads to."""
        checkpoint = shared / "checkpoint"
        (checkpoint / name).parent.mkdir(parents=True)
        (checkpoint / name).symlink_to(secret if "/" in name else secret.parent)
        give_to_nobody(checkpoint)
        before = sorted(secret.parent.iterdir())
        with Target.spawn("idle", 1, 1, 0) as target:
            done = predump("pre-dump", "-p", target.pid, "-D", checkpoint, check=False)
            target.check()
        assert done.returncode in (0, 1, 20), str(done)
        assert "internal error" not in done.stderr, str(done)
        assert not is_secret_shown(done)
        assert secret.read_bytes() == SECRET
        assert sorted(secret.parent.iterdir()) == before

    def test_a_link_to_a_directory_is_the_users_choice_but_one_to_nothing_is_refused(self, shared: Path) -> None:
        (shared / "real").mkdir(0o700)
        (shared / "link").symlink_to("real")
        (shared / "dangling").symlink_to("nowhere")
        with Target.spawn("idle", 1, 1, 0) as target:
            predump("pre-dump", "-p", target.pid, "-D", shared / "link")
            done = predump("pre-dump", "-p", target.pid, "-D", shared / "dangling", expect=1)
        assert "File exists" in done.stderr, str(done)
        assert (shared / "real" / "0001" / "manifest.json").exists()
        assert not (shared / "nowhere").exists()

    def test_a_fifo_is_not_waited_for(self, shared: Path) -> None:
        checkpoint = shared / "checkpoint"
        for name in ("manifest.json.tmp", "pages-42.zst"):
            (checkpoint / "0001").mkdir(parents=True, exist_ok=True)
            os.mkfifo(checkpoint / "0001" / name)
        os.mkfifo(shared / "fifo")
        with Target.spawn("idle", 1, 1, 0) as target:
            predump("pre-dump", "-p", target.pid, "-D", checkpoint)
            predump("pre-dump", "-p", target.pid, "-D", shared / "fifo", expect=1)
        predump("verify", checkpoint)


@pytest.mark.parametrize("mask", [0, 0o022, 0o277])
def test_what_export_writes_is_a_secret(made_by_hand: Bench, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
        words = ("export", str(made_by_hand.checkpoint), "--to", "core", "-o", str(tmp_path / "core"))
        assert run(words).exit_code == 0
        (tmp_path / "open").touch(0o666)
        (tmp_path / "open").chmod(0o666)
        assert run((*words[:-1], str(tmp_path / "open"), "--force")).exit_code == 0
    finally:
        os.umask(before)
    for name in ("core", "open"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_out_is_not_written_through_a_link(made_by_hand: Bench, tmp_path: Path, secret: Path) -> None:
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "core").symlink_to(secret)
    words = ("export", str(made_by_hand.checkpoint), "--to", "core", "-o", str(directory / "core"))
    for more in ((), ("--force",)):
        predump(*words, *more, expect=2)
    assert secret.read_bytes() == SECRET
    assert [path.name for path in directory.iterdir()] == ["core"]

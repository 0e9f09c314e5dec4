"""Storage that fails: a clear error, the target unharmed, earlier rounds whole, and a right dump once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.crash.patients import Patient, patient_of
from tests.crash.zygote import Zygote
from tests.filesystems import loop_mounted, tmpfs
from tests.harness import (
    NOBODY,
    TARGETS,
    Predump,
    Target,
    is_stopped,
    is_untouched,
    poll_until,
    predump,
    unprivileged_python,
)
from tests.tally import Count, Tally

pytestmark = pytest.mark.usefixtures("targets")

KIND = "idle 2 1 5000"
"""One MiB of pages that do not compress, each rewritten every 50 ms."""
COMMANDS = (
    "pre-dump",
    "dump",
    "dump --leave-stopped --no-pre-dump --staging 256K",
    "dump --kill",
    "run --max-freeze 1us --max-rounds 2 --leave-stopped",
)
FREE_KB = (0, 4, 8, 40, 400, 900, 1500)
"""Too little for a directory, a file, the pages, the manifest; what a command takes is about 1100 kB a round."""
FILE_LIMITS = (4096, 20_000, 200_000)
DESCRIPTOR_LIMITS = (8, 10, 12, 14, 18, 24, 32, 40)
ADDRESS_SPACE_LIMITS_MB = (60, 120, 200, 320, 400)
EXT4_MIB = 16


def ext4(directory: Path, image: Path) -> AbstractContextManager[Path]:
    """A small ext4, without a journal that an I/O error would stop."""
    options = ("-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=0")
    return loop_mounted("ext4", directory, image, *options, size_mib=EXT4_MIB)


@contextmanager
def file_system(kind: str, tmp_path: Path) -> Iterator[Path]:
    """A small one of its own."""
    if kind == "tmpfs":
        with tmpfs(tmp_path / "small", "size=16m,mode=700") as place:
            yield place
    else:
        with ext4(tmp_path / "small", tmp_path / "image") as place:
            yield place


@contextmanager
def ballast(place: Path, free_kb: int) -> Iterator[None]:
    """So much is free inside the block."""
    path = place / "ballast"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):  # until it is full
            while os.write(fd, bytes(1 << 12)):
                pass
        os.ftruncate(fd, max(0, os.fstat(fd).st_size - free_kb * 1024))
        os.fsync(fd)
        yield
    finally:
        os.close(fd)
        path.unlink()


def assert_refused(done: Predump, *mentions: object) -> None:
    """Exit code 1, one sentence that names what it is about, and one on what to do."""
    assert done.returncode == 1, str(done)
    for mention in mentions:
        assert str(mention) in done.stderr, str(done)
    assert done.result["type"] == "error"
    assert done.result["hint"], str(done)
    assert len(done.stderr.strip().splitlines()) <= 4, str(done)


def assert_failed_well(patient: Patient, done: Predump, earlier: dict[Path, bytes], *mentions: object) -> None:
    """The error of the contract; the target goes on; the rounds before are as they were, with nothing half-written."""
    patient.tally.add(Count.STORAGE_FAULTS)
    assert_refused(done, *mentions)
    patient.assert_goes_on()
    assert earlier.items() <= patient.files().items()
    patient.assert_verified()


def go_on_if_stopped(patient: Patient) -> None:
    if is_stopped(patient.pid):
        patient.assert_dumped()
        patient.resume()


def assert_works(patient: Patient, command: str) -> None:
    """Now that there is room. A killed target is the last thing that happens to it."""
    patient.run(command.replace("--kill", "").strip(), expect=None)
    go_on_if_stopped(patient)
    patient.assert_next_commands_are_right()
    if "--kill" in command:
        patient.run(command)
        assert patient.target.wait() == -signal.SIGKILL
        patient.assert_verified()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_full_disk(kind: str, command: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """At every fill level: no directory, no file, some of the pages, all but the manifest."""
    with file_system(kind, tmp_path) as place, patient_of(KIND, place, zygote, tally) as patient:
        patient.run("pre-dump")
        failed = 0
        for free_kb in FREE_KB:
            earlier = patient.files()
            with ballast(place, free_kb):
                done = patient.run(command, expect=None)
                if done.returncode != 1:
                    break  # it fits
                assert_failed_well(patient, done, earlier, patient.checkpoint, os.strerror(errno.ENOSPC))
                failed += 1
        assert failed >= 3
        if patient.target.alive():
            go_on_if_stopped(patient)
            assert_works(patient, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_writes_that_never_reach_the_disk(command: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """The disk is a sparse file on a file system that is full: it shows when the written file is made durable."""
    with (
        tmpfs(tmp_path / "below", "size=14m,mode=700") as below,
        ext4(tmp_path / "small", below / "image") as place,
        patient_of(KIND, place, zygote, tally) as patient,
    ):
        patient.run("pre-dump")
        os.sync()
        earlier = patient.files()
        with ballast(below, 0):
            done = patient.run(command, expect=None)
            assert_failed_well(patient, done, earlier, f"Cannot write {patient.checkpoint}")
        assert_works(patient, command)


def limited(patient: Patient, command: str, limits: dict[str, int]) -> Predump:
    return patient.zygote.run(*patient.words(command), limits=limits, expect=None)


@pytest.mark.parametrize("command", COMMANDS)
def test_limit_on_the_size_of_files(command: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """EFBIG, and no SIGXFSZ: the tool says what happened."""
    with patient_of(KIND, tmp_path, zygote, tally) as patient:
        patient.run("pre-dump")
        for limit in FILE_LIMITS:
            earlier = patient.files()
            done = limited(patient, command, {"RLIMIT_FSIZE": limit})
            assert_failed_well(patient, done, earlier, patient.checkpoint, os.strerror(errno.EFBIG), "ulimit -f")
        assert_works(patient, command)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("limit", "values"),
    [("RLIMIT_NOFILE", DESCRIPTOR_LIMITS), ("RLIMIT_AS", [mb << 20 for mb in ADDRESS_SPACE_LIMITS_MB])],
)
def test_limits_on_descriptors_and_memory(
    limit: str, values: list[int], command: str, zygote: Zygote, tmp_path: Path, tally: Tally
) -> None:
    """Whatever it is that cannot be had: an error that says how to raise the limit, or a command that needs no more."""
    with patient_of("selfcheck interruptible", tmp_path, zygote, tally) as patient:
        patient.run("pre-dump")
        failed = 0
        for value in values:
            earlier = patient.files()
            done = limited(patient, command, {limit: value})
            if done.returncode in (0, 3):
                break
            assert_failed_well(patient, done, earlier, "ulimit -n" if limit == "RLIMIT_NOFILE" else "ulimit -v")
            failed += 1
        assert failed >= 1
        if patient.target.alive():
            go_on_if_stopped(patient)
            assert_works(patient, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_read_only_file_system(command: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    with tmpfs(tmp_path / "small", "size=16m,mode=700") as place, patient_of(KIND, place, zygote, tally) as patient:
        patient.run("pre-dump")
        earlier = patient.files()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        done = patient.run(command, expect=None)
        assert_failed_well(patient, done, earlier, patient.checkpoint, os.strerror(errno.EROFS))
        new = place / "new"
        done = zygote.run(*patient.words(command, new), expect=None)
        assert_failed_well(patient, done, earlier, new, os.strerror(errno.EROFS))
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
        assert_works(patient, command)


def test_read_only_directory(tally: Tally) -> None:
    """Of an unprivileged user: root may write anywhere."""
    python, env = unprivileged_python()
    with tempfile.TemporaryDirectory(prefix="predump-test-") as name, nobodys_target() as target:
        directory = Path(name)
        directory.chmod(0o555)
        for command in ("pre-dump", "dump", "run"):
            words = (command, "-p", target.pid, "-D", directory / "checkpoint", "--json")
            done = predump(*words, prefix=python, env=env, check=False)
            tally.add(Count.STORAGE_FAULTS)
            assert_refused(done, directory / "checkpoint", os.strerror(errno.EACCES))
            assert is_untouched(target.pid)
        target.command("check")
        directory.chmod(0o777)
        predump("pre-dump", "-p", target.pid, "-D", directory / "checkpoint", prefix=python, env=env)
        predump("verify", directory / "checkpoint")
        target.check()


@contextmanager
def nobodys_target() -> Iterator[Target]:
    """A target of user 65534, who may not read where the tests are."""
    with tempfile.TemporaryDirectory(prefix="predump-test-") as name:
        Path(name).chmod(0o755)
        program = shutil.copy(TARGETS / "bin" / "idle", name)
        with Target.spawn(str(shutil.which("setpriv")), *NOBODY[1:], program, 1, 1, 100) as target:
            yield target


# ---- a directory that goes away ----


def remove(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint, ignore_errors=True)  # a file may be made there at the same time
    shutil.rmtree(checkpoint, ignore_errors=True)


def replace_by_nothing(checkpoint: Path) -> None:
    checkpoint.rename(checkpoint.with_name("elsewhere"))
    checkpoint.mkdir()


def replace_by_another(checkpoint: Path) -> None:
    """With as many rounds, and with those to come."""
    copy = checkpoint.with_name("copy")
    shutil.copytree(checkpoint, copy)
    last = max(path for path in copy.iterdir() if (path / "manifest.json").exists())
    for number in range(1, 30):
        if not (copy / f"{number:04}" / "manifest.json").exists():
            shutil.rmtree(copy / f"{number:04}", ignore_errors=True)
            shutil.copytree(last, copy / f"{number:04}")
    checkpoint.rename(checkpoint.with_name("elsewhere"))
    copy.rename(checkpoint)


def remove_first_round(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "0001")


@pytest.mark.parametrize("change", [remove, replace_by_nothing, replace_by_another, remove_first_round])
def test_directory_that_goes_away(change: object, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """Between two rounds of a run, or in the midst of one."""
    assert callable(change)
    with patient_of(KIND, tmp_path, zygote, tally) as patient:
        words = patient.words("run --max-freeze 1us --max-rounds 25 --interval 20ms --leave-stopped")
        running = zygote.begin(*words)
        first = patient.checkpoint / "0002" / "manifest.json"
        poll_until(first.exists, 30, "the second round")
        change(patient.checkpoint)
        there = {path: path.read_bytes() for path in patient.checkpoint.rglob("*") if path.is_file()}
        done = running.finish()
        tally.add(Count.STORAGE_FAULTS)
        assert_refused(done, patient.checkpoint)
        patient.assert_goes_on()
        if change is not remove_first_round:
            now = {path: path.read_bytes() for path in patient.checkpoint.rglob("*") if path.is_file()}
            assert now == there, "what is there now is somebody else's"
        patient.checkpoint = tmp_path / "new"
        patient.assert_next_commands_are_right()


# ---- the keeper's directory ----


@pytest.mark.parametrize(("inodes", "what"), [(1, ".lock"), (2, "keeper")])
def test_no_room_for_the_keeper(inodes: int, what: str, zygote: Zygote, tmp_path: Path, tally: Tally) -> None:
    """A file system for keepers without room for their lock, or for their socket."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    runtime = Path("/run/predump")
    runtime.mkdir(mode=0o700, exist_ok=True)
    mount = f'mount -t tmpfs -o mode=700,nr_inodes={inodes} predump-test {runtime} && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount, "sh", sys.executable)
    if predump("--version", prefix=prefix, check=False).returncode != 0:
        pytest.skip("unshare --mount does not work here")
    with patient_of(KIND, tmp_path, zygote, tally) as patient:
        done = predump(*patient.words("pre-dump"), "--json", prefix=prefix, check=False)
        tally.add(Count.STORAGE_FAULTS)
        assert_refused(done, runtime, what, os.strerror(errno.ENOSPC))
        assert patient.rounds() == []
        patient.assert_goes_on()
        patient.assert_next_commands_are_right()

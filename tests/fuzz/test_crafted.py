"""Checkpoints made by an enemy, one trick each: what every command makes of them."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from formats.frames import compress_frames
from formats.layout import ADDR_LIMIT, PAGE_BYTES, PAGEMAP_FRAME_BYTES, RUN, RunKind
from tests.format.images import PID, addr_of, page_of
from tests.fuzz.conftest import Bench
from tests.fuzz.manifests import TERMINAL, Json, body_of, replaced, resealed, sealed
from tests.fuzz.readers import DAMAGED, NOT_THERE, Ending, run
from tests.fuzz.samples import Files, write_files
from tests.harness import REPO, predump
from tests.tally import Count, Tally

LAST = 3
PAGES, PAGEMAP = f"000{LAST}/pages-{PID}.zst", f"000{LAST}/pagemap-{PID}.zst"
MANIFEST = f"000{LAST}/manifest.json"
DATA, ZERO, PARENT = RunKind.DATA, RunKind.ZERO, RunKind.PARENT


def judged(bench: Bench, tally: Tally, endings: list[Ending], allowed: tuple[int, ...]) -> list[str]:
    """What is wrong with these endings; one that is good must be that of the undamaged checkpoint."""
    found = [problem for ending in endings for problem in ending.problems(allowed=allowed)]
    found += [f"misread: {ending.words}" for ending in endings if allowed == DAMAGED and bench.misread(ending)]
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(found)))
    return found


def verified(endings: list[Ending]) -> int:
    """What `verify` said."""
    return next(ending.exit_code for ending in endings if ending.words[0] == "verify")


# ---- runs and frames ---------------------------------------------------------------------------------------------


def framed(content: bytes, frame_bytes: int = PAGEMAP_FRAME_BYTES) -> bytes:
    """A sound file of frames."""
    frames, sizes = compress_frames(memoryview(content), frame_bytes, 1)
    return with_table(frames, sizes)


def with_table(frames: list[bytes], sizes: list[int], n_frames: int | None = None) -> bytes:
    """Frames and a seek table that says so."""
    entries = b"".join(
        struct.pack("<III", len(frame), size, int.from_bytes(frame[-4:], "little"))
        for frame, size in zip(frames, sizes, strict=True)
    )
    footer = struct.pack("<IBI", len(frames) if n_frames is None else n_frames, 0x80, 0x8F92EAB1)
    return b"".join((*frames, struct.pack("<II", 0x184D2A5E, len(entries) + 9), entries, footer))


def records(*runs: tuple[int, int, int, int]) -> bytes:
    return framed(b"".join(RUN.pack(*item) for item in runs))


SOUND = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True)
BOMB = SOUND.compress(bytes(1 << 30))
FRAME = SOUND.compress(page_of(1))
A = addr_of(0)

FRAME_TRICKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "overlapping runs": (PAGEMAP, lambda: records((A, 4, DATA, 0), (A + PAGE_BYTES, 1, ZERO, 0))),
    "descending runs": (PAGEMAP, lambda: records((A + 4 * PAGE_BYTES, 1, ZERO, 0), (A, 4, DATA, 0))),
    "a run past its VMA": (PAGEMAP, lambda: records((A, 17, ZERO, 0))),
    "a run in no VMA": (PAGEMAP, lambda: records((0, 4, DATA, 0))),
    "an unaligned run": (PAGEMAP, lambda: records((A + 1, 4, DATA, 0))),
    "a run of no page": (PAGEMAP, lambda: records((A, 0, ZERO, 0))),
    "a run of 2^32 - 1 pages": (PAGEMAP, lambda: records((A, (1 << 32) - 1, ZERO, 0))),
    "a run at the end of the address space": (PAGEMAP, lambda: records(((1 << 64) - PAGE_BYTES, 1, ZERO, 0))),
    "a run over the limit": (PAGEMAP, lambda: records((ADDR_LIMIT - PAGE_BYTES, 2, ZERO, 0))),
    "a run of kind 0": (PAGEMAP, lambda: records((A, 4, 0, 0))),
    "a run of kind 2^32 - 1": (PAGEMAP, lambda: records((A, 4, (1 << 32) - 1, 0))),
    "a page index of 2^64 - 1": (PAGEMAP, lambda: records((A, 4, DATA, (1 << 64) - 1))),
    "a page index past the file": (PAGEMAP, lambda: records((A, 4, DATA, 100))),
    "more data pages than the file has": (PAGEMAP, lambda: records((A, 16, DATA, 0))),
    "a page index of a zero run": (PAGEMAP, lambda: records((A, 4, ZERO, 1))),
    "a parent run nowhere backed": (PAGEMAP, lambda: records((A + 15 * PAGE_BYTES, 1, PARENT, 0))),
    "parent runs in a full round": (f"0001/pagemap-{PID}.zst", lambda: records((A, 10, PARENT, 0))),
    "parent runs of an object": (f"000{LAST}/pagemap-object-1.zst", lambda: records((0, 4, PARENT, 0))),
    "runs past an object": (f"000{LAST}/pagemap-object-1.zst", lambda: records((0, 9, ZERO, 0))),
    "half a record": (PAGEMAP, lambda: framed(RUN.pack(A, 4, DATA, 0)[:-4])),
    "no runs": (PAGEMAP, lambda: framed(b"")),
    "no pages": (PAGES, lambda: framed(b"")),
    "half a page": (PAGES, lambda: framed(bytes(PAGE_BYTES // 2), PAGE_BYTES)),
    "a page less": (PAGES, lambda: framed(bytes(4 * PAGE_BYTES), PAGE_BYTES)),
    "a bomb": (PAGES, lambda: with_table([BOMB], [PAGE_BYTES])),
    "a bomb that says so": (PAGES, lambda: with_table([BOMB], [1 << 30])),
    "a bomb behind a sound header": (PAGES, lambda: with_table([FRAME[:7] + BOMB[9:]], [PAGE_BYTES])),
    "a window of 2 GiB": (PAGES, lambda: with_table([FRAME[:4] + b"\x84\xa8" + FRAME[5:]], [PAGE_BYTES])),
    "2^32 - 1 frames": (PAGES, lambda: with_table([FRAME], [PAGE_BYTES], (1 << 32) - 1)),
    "2^24 frames": (PAGES, lambda: with_table([FRAME], [PAGE_BYTES], 1 << 24)),
    "an empty file": (PAGES, lambda: b""),
    "a manifest as pages": (PAGES, lambda: sealed({})),
}


@pytest.mark.parametrize("trick", FRAME_TRICKS)
def test_files_that_their_manifest_vouches_for(made_by_hand: Bench, tally: Tally, trick: str) -> None:
    name, make = FRAME_TRICKS[trick]
    files = made_by_hand.sample.files | {name: make()}
    number = int(name.split("/")[0])
    endings = made_by_hand.endings(resealed(files, number, body_of(files[f"000{number}/manifest.json"])))
    # The image is what the enemy says it is: pages may be other ones, or not be there.
    assert judged(made_by_hand, tally, endings, (*DAMAGED, *NOT_THERE)) == []
    assert verified(endings) in DAMAGED


# ---- manifests ---------------------------------------------------------------------------------------------------


def changed(*changes: tuple[tuple[str | int, ...], Json]) -> Callable[[Json], Json]:
    def change(body: Json) -> Json:
        for place, value in changes:
            body = replaced(body, place, value)
        return body

    return change


BODY_TRICKS: dict[str, Callable[[Json], Json | bytes]] = {
    "it is its own parent": changed((("parent", "round"), LAST)),
    "its parent is later": changed((("parent", "round"), LAST + 1)),
    "its parent is round 2^64 - 1": changed((("parent", "round"), (1 << 64) - 1)),
    "its parent is another": changed((("parent", "round"), 1)),
    "it is another round": changed((("round",), LAST - 1)),
    "a path to /etc/passwd": changed((("files", 0, "name"), "../../../../../etc/passwd")),
    "an absolute path": changed((("files", 0, "name"), "/etc/passwd")),
    "a path with NUL": changed((("files", 0, "name"), f"pages-{PID}.zst\0")),
    "a path with an escape sequence": changed((("files", 0, "name"), TERMINAL)),
    "a long path": changed((("files", 0, "name"), "pages-" + "1" * 100_000 + ".zst")),
    "a list": lambda body: [body],
    "a number": lambda _: 1,
    "NaN": lambda _: b'{"round": NaN}',
    "not UTF-8": lambda _: b'{"round": "\xff\xfe"}',
    "UTF-16": lambda _: '{"round": 1}'.encode("utf-16"),
    "nothing": lambda _: b"",
    "nested a million deep": lambda _: b"[" * 1_000_000 + b"]" * 1_000_000,
    "objects a million deep": lambda _: b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000,
    "a number of a million digits": lambda _: b'{"round":' + b"9" * 1_000_000 + b"}",
    "a number of 4000 digits": lambda _: b'{"round":' + b"9" * 4000 + b"}",
    "features": changed((("features",), [TERMINAL, "x" * 100_000])),
    "a machine": changed((("host", "machine"), TERMINAL)),
    "a key of registers": changed((("processes", 0, "threads", 0, "registers"), {TERMINAL: "x"})),
}


@pytest.mark.parametrize("trick", BODY_TRICKS)
def test_signed_manifests(made_by_hand: Bench, tally: Tally, trick: str) -> None:
    body = BODY_TRICKS[trick](body_of(made_by_hand.sample.files[MANIFEST]))
    endings = made_by_hand.endings(resealed(made_by_hand.sample.files, LAST, body))
    assert judged(made_by_hand, tally, endings, (*DAMAGED, *NOT_THERE)) == []
    assert verified(endings) in DAMAGED or trick == "a machine"


HEAD = b'{"predump":{"schema":'
WHOLE_MANIFESTS: dict[str, bytes] = {
    "empty": b"",
    "an array": b"[]\n",
    "not UTF-8": b"\xff\xfe" * 100,
    "an early schema": HEAD + b'1,"sha256":""}}',
    "a later schema": HEAD + b"3}",
    "a schema of 9 digits": HEAD + b"999999999}",
    "a schema of 10 digits": HEAD + b"9999999999}",
    "a negative schema": HEAD + b"-2}",
    "only the head": HEAD + b"2",
    "white space": b" " * 1000,
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("trick", WHOLE_MANIFESTS)
def test_whole_manifests(made_by_hand: Bench, tally: Tally, trick: str) -> None:
    files = made_by_hand.sample.files | {MANIFEST: WHOLE_MANIFESTS[trick]}
    endings = made_by_hand.endings(files)
    assert judged(made_by_hand, tally, endings, DAMAGED) == []
    assert verified(endings) in DAMAGED


def test_a_missing_parent(made_by_hand: Bench, tally: Tally) -> None:
    files = {name: content for name, content in made_by_hand.sample.files.items() if not name.startswith("0002")}
    endings = made_by_hand.endings(files)
    assert judged(made_by_hand, tally, [e for e in endings if e.words[0] != "inspect"], DAMAGED) == []
    assert {e.exit_code for e in endings if e.words[0] in ("read", "verify") and "--round" not in e.words} == {22}


def test_a_sparse_manifest_of_10_gib(made_by_hand: Bench, tally: Tally) -> None:
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    os.truncate(made_by_hand.checkpoint / MANIFEST, 10 << 30)
    endings = [run(words) for words in made_by_hand.words]
    assert judged(made_by_hand, tally, endings, DAMAGED) == []
    assert verified(endings) == 20


# ---- what is no file ---------------------------------------------------------------------------------------------


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        directory = os.open(path.parent, os.O_PATH)
        try:
            bound.bind(f"/proc/self/fd/{directory}/{path.name}")  # the path itself is too long for an address
        finally:
            os.close(directory)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("may not make device nodes here")


PLACES: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a directory": Path.mkdir,
    "a socket": make_socket,
    "/dev/zero": make_device,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [MANIFEST, PAGES, PAGEMAP, "0001/manifest.json", f"000{LAST}/pages-object-1.zst"])
def test_what_is_no_regular_file(made_by_hand: Bench, tally: Tally, name: str, place: str) -> None:
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    path = made_by_hand.checkpoint / name
    path.unlink()
    PLACES[place](path)
    endings = [run(words) for words in made_by_hand.words]
    assert judged(made_by_hand, tally, endings, DAMAGED) == []
    assert verified(endings) == 20


@pytest.mark.parametrize("number", [1, LAST])
def test_a_round_that_is_a_link(made_by_hand: Bench, tally: Tally, tmp_path: Path, number: int) -> None:
    """Even one to what was there: a round of somebody else may be one only its owner's readers can reach."""
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    round_path = made_by_hand.checkpoint / f"000{number}"
    round_path.rename(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", Path("/dev/zero"), Path("nowhere"), Path(round_path.name)):
        round_path.unlink(missing_ok=True)
        round_path.symlink_to(target)
        endings = [run(words) for words in made_by_hand.words]
        assert judged(made_by_hand, tally, endings, DAMAGED) == []
        assert verified(endings) == 20


def test_hard_links_are_files(made_by_hand: Bench, tally: Tally, tmp_path: Path) -> None:
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    for index, name in enumerate(made_by_hand.sample.files):
        (tmp_path / str(index)).hardlink_to(made_by_hand.checkpoint / name)
    endings = [run(words) for words in made_by_hand.words]
    assert judged(made_by_hand, tally, endings, ()) == []
    assert [ending.words for ending in endings if made_by_hand.misread(ending)] == []


def test_names_that_are_no_rounds(made_by_hand: Bench, tally: Tally) -> None:
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    for name in ("0000", "9999999999", "٠٠٠٤", "00004", "4", "-004", "0004 ", "0004\n", "+004", "0x04"):
        (made_by_hand.checkpoint / name).mkdir()
        (made_by_hand.checkpoint / name / "manifest.json").write_bytes(made_by_hand.sample.files[MANIFEST])
    endings = [run(words) for words in made_by_hand.words]
    assert judged(made_by_hand, tally, endings, ()) == []
    assert [ending.words for ending in endings if made_by_hand.misread(ending)] == []


def test_files_with_hostile_names(made_by_hand: Bench, tally: Tally) -> None:
    write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
    for name in (TERMINAL.replace("/", "_"), "x" * 255, "[bold]"):
        (made_by_hand.checkpoint / f"000{LAST}" / name).touch()
        (made_by_hand.checkpoint / name).mkdir()
    endings = [run(words) for words in made_by_hand.words]
    assert judged(made_by_hand, tally, endings, ()) == []
    verify = next(ending for ending in endings if ending.words[0] == "verify")
    assert len(verify.output.splitlines()) == 4


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\udcff", "x" * 255])
def test_a_checkpoint_of_a_hostile_name(made_by_hand: Bench, tally: Tally, tmp_path: Path, name: str) -> None:
    checkpoint = tmp_path / name
    write_files(checkpoint, made_by_hand.sample.files | {PAGES: b""})
    commands = [("inspect",), ("verify",), ("read", "0", "64"), ("export", "--to", "core", "-o", str(made_by_hand.out))]
    endings = [run((words[0], str(checkpoint), *words[1:])) for words in commands]
    found = [problem for ending in endings for problem in ending.problems(allowed=(*DAMAGED, *NOT_THERE))]
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(found)))
    assert found == []


# ---- files that change -------------------------------------------------------------------------------------------


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def extend(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1000)


def exchange(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("change", [cut_to_nothing, overwrite, extend, exchange])
def test_a_file_that_changes_while_it_is_read(
    made_by_hand: Bench, tally: Tally, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """All files of the last round change between two reads, wherever a command is."""
    pread = os.pread
    readers = [words for words in made_by_hand.words if words[0] != "inspect" and not {"--json", "--round"} & {*words}]
    for words in readers:
        for n_reads in range(30):
            write_files(made_by_hand.checkpoint, made_by_hand.sample.files)
            left = [n_reads]

            def changing(fd: int, n_bytes: int, offset: int, left: list[int] = left) -> bytes:
                left[0] -= 1
                if left[0] == -1:
                    for path in (made_by_hand.checkpoint / f"000{LAST}").iterdir():
                        change(path)
                return pread(fd, n_bytes, offset)

            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", changing)
                ending = run(words)
            assert judged(made_by_hand, tally, [ending], DAMAGED) == []
            if left[0] >= 0:
                break  # it was over before


# ---- the terminal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_output(made_by_hand: Bench, tally: Tally, tmp_path: Path, encoding: str) -> None:
    """Names that it has no characters for, or that are no characters at all, are written as escapes."""
    checkpoint = tmp_path / "\u00e9\u4e00\udcff"
    body = body_of(made_by_hand.sample.files[MANIFEST])
    body["processes"][0] |= {"name": "\u4e00", "cmdline": ["\u00e9", "\udcff", "\U0001f600"]}
    write_files(checkpoint, resealed(made_by_hand.sample.files, LAST, body))
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for words in (("inspect", checkpoint), ("verify", checkpoint), ("verify", checkpoint, "--json")):
        done = predump_bytes(*words, env=env)
        assert done.returncode == 0, done
        assert done.stderr == b"", done
        done.stdout.decode(encoding)
    done = predump_bytes("read", checkpoint, "0", "1", env=env)
    assert done.returncode == 1
    assert b"internal error" not in done.stderr, done
    tally.add(Count.IMAGES_TRIED)


def predump_bytes(*words: object, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "cli", *map(str, words)]
    return subprocess.run(command, cwd=REPO, env=os.environ | env, capture_output=True, check=False)


# ---- the real command line ---------------------------------------------------------------------------------------

SIGNED: dict[str, Callable[[Files], Files]] = {
    "a bomb": lambda files: resealed(files | {PAGES: with_table([BOMB], [PAGE_BYTES])}, LAST, body_of(files[MANIFEST])),
    "2^32 - 1 frames": lambda files: files | {PAGES: with_table([FRAME], [PAGE_BYTES], (1 << 32) - 1)},
    "nested a million deep": lambda files: resealed(files, LAST, b"[" * 1_000_000 + b"]" * 1_000_000),
    "an empty manifest": lambda files: files | {MANIFEST: b""},
    "a name with an escape sequence": lambda files: resealed(
        files, LAST, replaced(body_of(files[MANIFEST]), ("files", 0, "name"), TERMINAL)
    ),
    "features": lambda files: resealed(files, LAST, replaced(body_of(files[MANIFEST]), ("features",), [TERMINAL])),
    "no parent": lambda files: {name: content for name, content in files.items() if not name.startswith("0002")},
}


@pytest.mark.parametrize("trick", SIGNED)
def test_the_entry_point_says_the_same(made_by_hand: Bench, tally: Tally, trick: str) -> None:
    """As the command that is installed: exit code, two lines on stderr, and with --json an event besides."""
    files = SIGNED[trick](made_by_hand.sample.files)
    write_files(made_by_hand.checkpoint, files)
    for words in made_by_hand.words[2:5]:  # verify, the same with --json, read
        expected = run(words)
        assert expected.exit_code in DAMAGED
        done = predump(*words, expect=expected.exit_code)
        assert done.stderr == expected.stderr
        if "--json" in words:
            assert done.result["exit_code"] == expected.exit_code
    tally.add(Count.IMAGES_TRIED)

"""A program and a library with symbols of every kind (tests/targets/symbols.c), compiled in several ways, dumped."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.harness import TARGETS, Target, predump

PROGRAM = "program"
LIBRARY = "libsymbols.so"
WAYS = {
    "pie": ("-fPIE", "-pie"),
    "fixed": ("-fno-pie", "-no-pie"),
    "stripped": ("-fPIE", "-pie", "-Wl,--build-id=sha1"),
    "linked": ("-fPIE", "-pie", "-Wl,--build-id=none"),
}
"""Options by the way: `stripped` has its symbols in a file found by build id, `linked` in one found by its link."""
BUILD_S = 60


@dataclass(frozen=True)
class Dumped:
    """A dump of the program. `places` are addresses as the program knows them, `unstripped` files with all symbols."""

    checkpoint: Path
    home: Path
    sysroot: Path
    places: dict[str, int]
    unstripped: dict[str, Path]


def dump(directory: Path, way: str) -> Dumped:
    """Compile it in an empty directory, run it, and dump it."""
    home, sysroot = directory / "home", directory / "sysroot"
    home.mkdir()
    unstripped = {name: directory / f"whole-{name}" for name in (PROGRAM, LIBRARY)}
    flags = ("-g", "-O1", "-I", str(TARGETS))
    _run("gcc", *flags, "-fPIC", "-shared", "-o", home / LIBRARY, TARGETS / "symbols-library.c")
    _run("gcc", *flags, *WAYS[way], "-o", home / PROGRAM, TARGETS / "symbols.c", home / LIBRARY, "-Wl,-rpath,$ORIGIN")
    for name, path in unstripped.items():
        shutil.copyfile(home / name, path)
    if way in {"stripped", "linked"}:
        debug = directory / "debug"
        _run("objcopy", "--only-keep-debug", home / PROGRAM, debug)
        _run("strip", "--strip-all", home / PROGRAM)
        if way == "stripped":
            notes = _run("readelf", "-n", unstripped[PROGRAM])
            identity = re.findall("Build ID: ([0-9a-f]+)", notes)[0]
            place = sysroot / "usr/lib/debug/.build-id" / identity[:2] / f"{identity[2:]}.debug"
        else:
            place = home / ".debug" / "program.debug"
        place.parent.mkdir(parents=True)
        debug.rename(place)
        if way == "linked":
            _run("objcopy", f"--add-gnu-debuglink={place}", home / PROGRAM)
    with Target.spawn(str(home / PROGRAM)) as target:
        predump("dump", "-p", target.pid, "-D", directory / "checkpoint", "--leave-stopped")
        places = {name: int(addr, 16) for name, addr in re.findall(r"(\w+)=0x([0-9a-f]+)", target.ready)}
    copied = sysroot / home.relative_to("/")
    shutil.copytree(home, copied)
    return Dumped(directory / "checkpoint", home, sysroot, places, unstripped)


def listed(path: Path, *options: str) -> dict[str, set[tuple[int, int]]]:
    """What nm says: values and sizes by name, of symbols that are at addresses."""
    found: dict[str, set[tuple[int, int]]] = {}
    for line in _run("nm", "--format=posix", "--defined-only", *options, path).splitlines():
        name, kind, value, *size = line.split()
        if kind not in {"A", "a"} and name != "own":
            found.setdefault(name.partition("@")[0], set()).add((int(value, 16), int(size[0], 16) if size else 0))
    return found


def _run(*words: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=BUILD_S)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout

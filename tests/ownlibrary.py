"""A program with a library of its own and a data file, all in one directory, which may be moved away after a dump."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARY = "libown.so.1.2"
LINK = "libown.so.1"
PROGRAM = "own-program"
DATA = "own-data"
DATA_BYTES = 5 * 4096 + 123
BUILD_S = 60

_LIBRARY_C = """
#include <unistd.h>
#include <stdio.h>
int own_table[2000] = {1, 2, 3};
const char own_text[20000] = "constant";
void own_wait(int n) { own_table[1] += n; printf("ready\\n"); fflush(stdout); for (;;) pause(); }
"""
_PROGRAM_C = """
#include <fcntl.h>
#include <sys/mman.h>
void own_wait(int);
int own_number = 7;
static void own_outer(int n) { own_wait(n + 1); own_number++; }
int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDONLY);
    char *data = mmap(0, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    data[2 * 4096] = '!';
    own_outer(argc);
    return data == 0;
}
"""


def build_library(directory: Path, source: str = _LIBRARY_C) -> None:
    """Compile the library, of another content if `source` says so."""
    (directory / "own.c").write_text(source)
    flags = ("-g", "-O0", "-shared", "-fPIC", "-Wl,--build-id=sha1", f"-Wl,-soname,{LINK}")
    _cc(*flags, "-o", str(directory / LIBRARY), str(directory / "own.c"))
    (directory / LINK).unlink(missing_ok=True)
    (directory / LINK).symlink_to(LIBRARY)


def build_other_library(directory: Path) -> None:
    """Compile one of the same name that is another."""
    build_library(directory, _LIBRARY_C.replace("{1, 2, 3}", "{4, 5, 6}"))


def build(directory: Path) -> None:
    """Make the directory with all of it."""
    directory.mkdir()
    build_library(directory)
    (directory / "main.c").write_text(_PROGRAM_C)
    flags = ("-g", "-O0", "-Wl,--build-id=sha1", "-Wl,-rpath,$ORIGIN")
    _cc(*flags, "-o", str(directory / PROGRAM), str(directory / "main.c"), str(directory / LIBRARY))
    (directory / DATA).write_bytes(bytes(n % 251 for n in range(DATA_BYTES)))


def _cc(*words: str) -> None:
    subprocess.run([os.environ.get("CC", "cc"), *words], check=True, timeout=BUILD_S)


@contextmanager
def running(directory: Path) -> Iterator[int]:
    """Its pid, while it waits in its library."""
    words = [str(directory / PROGRAM), str(directory / DATA)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()

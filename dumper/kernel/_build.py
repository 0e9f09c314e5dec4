"""Builds the native library `dumper.kernel._native` (cffi, API mode)."""

from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parent / "csrc"
SOURCES = [
    "pages.c",
    "copy.c",
    "recheck.c",
    "recency.c",
    "uffd.c",
    "threads.c",
    "frames.c",
    "inject.c",
    "clone.c",
    "state.c",
    "calls.c",
    "chain.c",
    "ask.c",
    "vdso.c",
    "files.c",
    "descriptors.c",
    "tcp.c",
    "probes.c",
    "spawn.c",
    "remote.c",
    "guard.c",
    "shared.c",
    "segments.c",
    "missing.c",
    "fill.c",
]
HEADERS = [
    "predump.h",
    "cdef.h",
    "compat.h",
    "page.h",
    "pages.h",
    "runs.h",
    "stops.h",
    "frames.h",
    "inject.h",
    "calls.h",
    "chain.h",
    "fill.h",
]

ffibuilder = FFI()
ffibuilder.cdef((CSRC / "cdef.h").read_text(encoding="ascii"))
ffibuilder.set_source(
    "dumper.kernel._native",
    '#include "predump.h"\n',
    # setuptools wants paths relative to setup.py, whatever directory this file is read from
    sources=[f"dumper/kernel/csrc/{name}" for name in SOURCES],
    depends=[f"dumper/kernel/csrc/{name}" for name in HEADERS],
    include_dirs=["dumper/kernel/csrc"],
    extra_compile_args=[
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
    ],
    py_limited_api=True,
)

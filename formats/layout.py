"""Every struct, magic, version and size limit of the image format; docs/format.md explains them.

DIR/                     checkpoint, 0700
  0001/                  round, 0700
    pages-<pid>.zst      content of the DATA runs, in the order of the runs
    pagemap-<pid>.zst    the runs of the process, ascending by address
    pages-object-<id>.zst, pagemap-object-<id>.zst
                         the same of a memory object (shared memory, a memfd, a deleted file), by offset
    manifest.json        written last: the round exists if and only if this file does
  0002/ ...
  flatten.tmp/           rounds on their way in or out; means nothing to readers
"""

from __future__ import annotations

import re
import struct
from enum import IntEnum

SCHEMA_VERSION = 2
"""Version of the manifest and of the files it names. It is not the version of the tool."""

PAGE_BYTES = 4096
ADDR_LIMIT = 1 << 56
"""Runs end at or below this address (exclusive): user space under five-level page tables."""

# --- files of a round ---------------------------------------------------------------------------

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

MANIFEST_NAME = "manifest.json"
MANIFEST_TEMPORARY_NAME = "manifest.json.tmp"
MANIFEST_MAX_BYTES = 64 << 20
MANIFEST_MAX_OBJECTS = 1 << 17
"""JSON objects of a manifest (inclusive), counted as `{` in its BODY; they are what takes most memory."""
MANIFEST_MAX_VALUES = 1 << 21
"""Values of a manifest (inclusive), counted as `,` and `[` in its BODY."""

FLATTEN_NAME = "flatten.tmp"
"""In a checkpoint: where a round is flattened that is to replace others, and where these are until they are removed."""

ROUND_NAME = re.compile(r"(?!0000$)(?:[0-9]{4}|[1-9][0-9]{4,8})")
"""At least four digits, padded with zeros to four: each number has exactly one name."""
IMAGE_NAME = re.compile(r"(?P<content>pages|pagemap)-(?:object-)?(?P<number>0|[1-9][0-9]{0,9})\.zst")


def round_name(number: int) -> str:
    """Directory name of a round inside its checkpoint; rounds count from 1."""
    return f"{number:04d}"


def pages_name(pid: int) -> str:
    """File name of the page contents of a process inside a round."""
    return f"pages-{pid}.zst"


def pagemap_name(pid: int) -> str:
    """File name of the runs of a process inside a round."""
    return f"pagemap-{pid}.zst"


def object_pages_name(number: int) -> str:
    """File name of the page contents of a memory object inside a round."""
    return f"pages-object-{number}.zst"


def object_pagemap_name(number: int) -> str:
    """File name of the runs of a memory object inside a round."""
    return f"pagemap-object-{number}.zst"


# --- pagemap records ----------------------------------------------------------------------------


class RunKind(IntEnum):
    """Where the pages of a run are. Pages that no run covers are absent (a hole)."""

    DATA = 1
    """In the pages file of this round, from `page_index` on."""
    ZERO = 2
    """All bytes are zero; nothing is stored."""
    PARENT = 3
    """Unchanged since the parent round, which has a run for each of these pages."""


RUN = struct.Struct("<QIIQ")
"""One pagemap record: start_addr, n_pages, kind, page_index (DATA only, 0 otherwise)."""

RUN_MAX_PAGES = (1 << 32) - 1

RUNS_PER_FRAME = 2048
PAGEMAP_FRAME_BYTES = RUNS_PER_FRAME * RUN.size

# --- pages --------------------------------------------------------------------------------------

FRAME_PAGES = 64
PAGES_FRAME_BYTES = FRAME_PAGES * PAGE_BYTES

# --- zstd seekable format, version 0.1.0 --------------------------------------------------------
# https://github.com/facebook/zstd/blob/dev/contrib/seekable_format/zstd_seekable_compression_format.md

SEEK_TABLE_HEADER = struct.Struct("<II")
"""Skippable magic, and the bytes that follow this header."""
SEEK_TABLE_ENTRY = struct.Struct("<III")
"""Stored bytes, content bytes, and the low 32 bits of the XXH64 of the content."""
SEEK_TABLE_FOOTER = struct.Struct("<IBI")
"""Frame count, descriptor, and the seekable format's magic."""

SEEK_TABLE_SKIPPABLE_MAGIC = 0x184D2A5E
SEEK_TABLE_MAGIC = 0x8F92EAB1
SEEK_TABLE_CHECKSUMS = 0x80
"""The only descriptor we write and read: bit 7, every entry has a checksum."""

FRAME_CHECKSUM_BYTES = 4
MAX_FRAMES = 1 << 24
"""Frames of one file (inclusive): 4 TiB of page content, and a seek table of 192 MiB."""


def max_stored_bytes(content_bytes: int) -> int:
    """Most bytes (inclusive) that a frame of so much content may take, incompressible or not.

    A little above ZSTD_COMPRESSBOUND of zstd.h plus frame header and checksum.
    """
    return content_bytes + content_bytes // 128 + 512

"""What search finds in a dump is what a plain search of the memory of the process finds, which is still stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from cli import cli
from tests.harness import Event, number, predump
from tests.oracle import read_maps
from tests.redisserver import ask, needs_redis, redis_server

VMAS = ("--vma", "heap", "--vma", "anon", "--vma", "stack", "--writable")
KEY = "the-needle-of-the-tests"
TEXT = f"<{KEY} Größe>"


def plain_memory(pid: int) -> Iterator[tuple[int, bytes]]:
    """Address and bytes of the writable memory without a file, mappings next to each other in one piece."""
    start_addr, content = 0, b""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for mapping in read_maps(pid):
            if mapping.inode or "w" not in mapping.perms or mapping.path in {"[vvar]", "[vsyscall]"}:
                continue
            memory.seek(mapping.start_addr)
            read = b""
            while len(read) < mapping.end_addr - mapping.start_addr:
                read += memory.read(mapping.end_addr - mapping.start_addr - len(read))
            if start_addr + len(content) != mapping.start_addr:
                if content:
                    yield start_addr, content
                start_addr, content = mapping.start_addr, b""
            content += read
    yield start_addr, content


def matches(checkpoint: Path, pattern: str, *words: str) -> list[Event]:
    """All of them; in this process, since there are many searches."""
    done = CliRunner().invoke(cli, ["search", str(checkpoint), pattern, *VMAS, *words, "--json"])
    *events, result = map(json.loads, done.stdout.splitlines())
    assert done.exit_code == 0, done.stdout
    assert result["matches"] == sum(1 + number(event, "repeats") for event in events)
    return events


def found(checkpoint: Path, pattern: str, *words: str) -> list[int]:
    """The addresses of all matches, none of which is in zeros."""
    events = matches(checkpoint, pattern, *words)
    assert {event["repeats"] for event in events} <= {0}
    return [number(event, "addr") for event in events]


@needs_redis
def test_against_the_memory_of_redis(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with redis_server(tmp_path, 4) as (server, port):
        for position in range(50):
            ask(port, b"SET", b"%s-%d" % (KEY.encode(), position), b"x" * position + TEXT.encode())
        predump("pre-dump", "-p", server.pid, "-D", checkpoint)
        for position in range(25, 75):
            ask(port, b"SET", b"%s-%d" % (KEY.encode(), position), TEXT.encode("utf-16-le"))
        ask(port, b"SET", b"long", TEXT.encode() * 300)
        predump("dump", "-p", server.pid, "-D", checkpoint, "--leave-stopped")
        nameless = [mapping for mapping in read_maps(server.pid) if not mapping.path and "w" in mapping.perms]
        low, high = max(((one.start_addr, one.end_addr) for one in nameless), key=lambda one: one[1] - one[0])
        memory = list(plain_memory(server.pid))

        def plain(expression: bytes, flags: int = 0) -> list[int]:
            matches = ((addr, re.finditer(expression, content, flags)) for addr, content in memory)
            return [addr + match.start() for addr, finds in matches for match in finds]

        utf_8, utf_16 = (re.escape(TEXT.encode(encoding)) for encoding in ("utf-8", "utf-16-le"))
        wanted = plain(utf_16 + b"|" + utf_8)
        assert len(wanted) > 300
        assert found(checkpoint, TEXT) == wanted
        assert found(checkpoint, TEXT, "--encoding", "utf-16") == plain(utf_16)
        assert found(checkpoint, KEY.upper(), "-i", "--encoding", "utf-8") == plain(KEY.encode(), re.IGNORECASE)
        assert found(checkpoint, f"re:{KEY}-[0-9]+5") == plain(KEY.encode() + b"-[0-9]+5")
        assert found(checkpoint, "hex:3C 74 ?? 65 2d") == plain(b"(?s)<t.e-")
        pointers = [
            addr + offset
            for addr, content in memory
            for offset, word in enumerate(memoryview(content).cast("Q"))
            if low <= word < high
            for offset in (offset * 8,)
        ]
        assert found(checkpoint, f"ptr:{low:#x}-{high:#x}") == pointers
        assert len(pointers) > 5
        everywhere = [(event["addr"], event["found_in"]) for event in matches(checkpoint, TEXT, "--all-rounds")]
        assert [addr for addr, rounds in everywhere if rounds != [1]] == wanted
        assert [1, 2] in [rounds for _, rounds in everywhere]
        assert [addr for addr, rounds in everywhere if rounds != [2]] == found(checkpoint, TEXT, "--round", "1")

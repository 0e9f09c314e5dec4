"""What may happen to the files of a checkpoint, by accident or by an enemy who does not know the format.

Each mutation changes a few files in place and says what it did; they may be done one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.samples import Files

Mutation = Callable[[Random, Files, Files], str]
"""Changes the first checkpoint; the second is another one to take parts from."""

_WORDS = tuple(
    value.to_bytes(size, "little")
    for size in (4, 8)
    for value in (0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1, (1 << 8 * size) - 4096)
)
_TOKENS = (b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'"', b"\xff", b"\0", b"\x1b[2J", b"9" * 30, b"\n")


def _pick(random: Random, files: Files) -> str:
    return random.choice(sorted(files))


def _range(random: Random, content: bytes, most: int) -> tuple[int, int]:
    start = random.randint(0, len(content))
    return start, min(len(content), start + random.randint(0, most))


def flip_bits(random: Random, files: Files, _other: Files) -> str:
    name = _pick(random, files)
    content = bytearray(files[name])
    places = [random.randrange(len(content) * 8) for _ in range(random.choice((1, 1, 2, 20)))] if content else []
    for place in places:
        content[place // 8] ^= 1 << place % 8
    files[name] = bytes(content)
    return f"flip bits {places} of {name}"


def cut(random: Random, files: Files, _other: Files) -> str:
    name = _pick(random, files)
    length = random.randint(0, len(files[name]))
    files[name] = files[name][:length]
    return f"cut {name} to {length} bytes"


def drop_range(random: Random, files: Files, _other: Files) -> str:
    name = _pick(random, files)
    start, end = _range(random, files[name], 5000)
    files[name] = files[name][:start] + files[name][end:]
    return f"drop bytes {start} to {end} of {name}"


def zero_range(random: Random, files: Files, _other: Files) -> str:
    name = _pick(random, files)
    start, end = _range(random, files[name], 5000)
    files[name] = files[name][:start] + bytes(end - start) + files[name][end:]
    return f"zero bytes {start} to {end} of {name}"


def append(random: Random, files: Files, _other: Files) -> str:
    name = _pick(random, files)
    n_bytes = random.choice((1, 17, 4096))
    files[name] += random.randbytes(n_bytes)
    return f"append {n_bytes} bytes to {name}"


def write_number(random: Random, files: Files, _other: Files) -> str:
    name = _pick(random, files)
    word = random.choice(_WORDS)
    start, _ = _range(random, files[name], 0)
    if random.random() < 0.5:  # the tables are at the end
        start = max(0, len(files[name]) - random.randint(0, 64))
    files[name] = files[name][:start] + word + files[name][start + len(word) :]
    return f"write {word!r} at {start} of {name}"


def write_token(random: Random, files: Files, _other: Files) -> str:
    name = random.choice([name for name in sorted(files) if name.endswith(".json")] or sorted(files))
    token = random.choice(_TOKENS)
    start, end = _range(random, files[name], 20)
    files[name] = files[name][:start] + token + files[name][end:]
    return f"write {token!r} over bytes {start} to {end} of {name}"


def splice(random: Random, files: Files, other: Files) -> str:
    name = _pick(random, files)
    source = random.choice((files, other))
    donor = _pick(random, source)
    start, end = _range(random, source[donor], 5000)
    place, resume = _range(random, files[name], 5000)
    files[name] = files[name][:place] + source[donor][start:end] + files[name][resume:]
    return f"bytes {start} to {end} of {donor} over bytes {place} to {resume} of {name}"


def swap(random: Random, files: Files, _other: Files) -> str:
    first, second = _pick(random, files), _pick(random, files)
    files[first], files[second] = files[second], files[first]
    return f"swap {first} and {second}"


def take_from_other(random: Random, files: Files, other: Files) -> str:
    name, donor = _pick(random, files), _pick(random, other)
    if donor in files and random.random() < 0.5:
        name = donor
    files[name] = other[donor]
    return f"{donor} of another checkpoint as {name}"


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    cut,
    drop_range,
    zero_range,
    append,
    write_number,
    write_token,
    splice,
    swap,
    take_from_other,
)

"""What a person searches for, in words: text, hex:BYTES, re:EXPRESSION, ptr:PLACE."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from analysis.expressions import whereabouts
from analysis.places import Places
from analysis.search.matchers import (
    MATCH_MAX_BYTES,
    Form,
    FormMatcher,
    Matcher,
    RegexMatcher,
    Variants,
    anchored,
    longest_row,
)
from analysis.selection import VmaSelection
from analysis.words import WORD_BYTES
from formats import runs
from formats.errors import UsageError

ENCODINGS = ("utf-8", "utf-16-le")

_HEX = re.compile(r"(?:[0-9a-fA-F]{2}|\?\?)+")
_RANGE = re.compile(r"(0[xX][0-9a-fA-F]{1,16})-(0[xX][0-9a-fA-F]{1,16})")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_MAX_ANCHORS = 8  # the memory is gone through for each of them


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is searched for. `matcher` makes what finds it in a process whose places have names.

    `is_pointer`: its matches are words that point to somewhere.
    """

    matcher: Callable[[Places], Matcher]
    is_pointer: bool = False


def pattern_of(words: str, *, ignore_case: bool = False, encodings: Iterable[str] = ENCODINGS) -> Pattern:
    """What the words of a person mean; case and `encodings` matter to text. Raises UsageError.

    So do the matchers of pointers, if there is no such place.
    """
    kind, colon, rest = words.partition(":")
    if kind == "ptr" and colon:
        return Pattern(partial(_pointers, rest), is_pointer=True)
    if kind == "hex" and colon:
        matcher: Matcher = _bytes(rest)
    elif kind == "re" and colon:
        matcher = _regex(rest, ignore_case=ignore_case)
    else:
        text = rest if kind == "text" and colon else words
        matcher = _text(text, tuple(encodings), ignore_case=ignore_case)
    return Pattern(lambda _places: matcher)


def _text(text: str, encodings: Iterable[str], *, ignore_case: bool) -> Matcher:
    if not text:
        raise UsageError("There is nothing to search for.", hint="Name a text, hex:BYTES, re:EXPRESSION or ptr:PLACE.")
    form_of = _either_case if ignore_case else _as_it_is
    forms = []
    for encoding in encodings:
        try:
            forms.append(form_of(text, encoding))
        except UnicodeEncodeError as error:
            raise UsageError(f"The text to search for is no {encoding}.", hint="Give its bytes, as hex:.") from error
    return FormMatcher(_short_enough(forms), folds=ignore_case)


def _as_it_is(text: str, encoding: str) -> Form:
    content = text.encode(encoding)
    return anchored(content, [True] * len(content), lambda memory, at: memory.startswith(content, at), encoding)


def _either_case(text: str, encoding: str) -> Form:
    """Letters stand for both cases, where these take the same number of bytes."""
    content, known, expression = b"", [], b""
    for character in text:
        plain = character.lower() if character.isascii() else character
        variants = {character.encode(encoding)}
        others = (character.lower(), character.upper())
        variants |= {other.encode(encoding) for other in others if len(other) == 1}
        n_bytes = len(character.encode(encoding))
        variants = {variant for variant in variants if len(variant) == n_bytes}
        content += plain.encode(encoding).lower()
        known += [len({variant.lower()[at] for variant in variants}) == 1 for at in range(n_bytes)]
        expression += b"(?:" + b"|".join(map(re.escape, sorted(variants))) + b")"
    regex = re.compile(expression, re.DOTALL)
    if longest_row(known)[1] == 1 < len(content) or not any(known):
        return Variants(len(content), regex, encoding)
    return anchored(content, known, regex.match, encoding, is_sure=text.isascii())


def _bytes(digits: str) -> Matcher:
    packed = "".join(digits.split())
    if not _HEX.fullmatch(packed) or set(packed) == {"?"}:
        raise UsageError(
            f"hex:{digits} is no row of bytes.",
            hint="Write two digits for each byte, and ?? for one that may be any, as in hex:DE AD ?? EF.",
        )
    pairs = [packed[at : at + 2] for at in range(0, len(packed), 2)]
    known = [pair != "??" for pair in pairs]
    content = bytes(int(pair, 16) if is_known else 0 for pair, is_known in zip(pairs, known, strict=True))
    expression = b"".join(re.escape(content[at : at + 1]) if is_known else b"." for at, is_known in enumerate(known))
    form = anchored(content, known, re.compile(expression, re.DOTALL).match)
    return FormMatcher(_short_enough([form]))


def _regex(expression: str, *, ignore_case: bool) -> Matcher:
    try:
        regex = re.compile(expression.encode(errors="surrogateescape"), re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"re:{expression} is no regular expression: {error}.",
            hint="It is one of Python's re module, for bytes.",
        ) from error
    if regex.match(b""):
        raise UsageError(f"re:{expression} matches where nothing is.", hint="Write + where it has *, for example.")
    return RegexMatcher(regex)


def _short_enough(forms: list[Form]) -> list[Form]:
    n_bytes = max(form.n_bytes for form in forms)
    if n_bytes > MATCH_MAX_BYTES:
        raise UsageError(
            f"{n_bytes} bytes are too many to search for.", hint=f"Search for at most {MATCH_MAX_BYTES} of them."
        )
    return forms


def _pointers(place: str, places: Places) -> Matcher:
    ranges = list(runs.merge(sorted(_targets(place, places))))
    starts = [start for start, _ in ranges]

    def points_there(content: bytes, at: int) -> bool:
        value = int.from_bytes(content[at : at + WORD_BYTES], "little")
        position = bisect_right(starts, value) - 1
        return position >= 0 and value < ranges[position][1]

    forms: list[Form] = []
    for prefix in _prefixes(ranges):
        content = bytes(WORD_BYTES - len(prefix)) + prefix[::-1]
        known = [at >= WORD_BYTES - len(prefix) for at in range(WORD_BYTES)]
        forms.append(replace(anchored(content, known, points_there, is_sure=False), step_bytes=WORD_BYTES))
    return FormMatcher(forms)


def _targets(place: str, places: Places) -> list[runs.Range]:
    """The addresses that are meant."""
    both = _RANGE.fullmatch(place)
    if both:
        start, end = (int(addr, 16) for addr in both.groups())
        if start >= end:
            raise UsageError(
                f"ptr:{place} is no range.", hint="Write the lower address first; the second is not in it."
            )
        return [(start, end)]
    if not _NUMBER.fullmatch(place):
        named = VmaSelection((place,)).of(places.vmas)
        if named:
            return [(vma.start_addr, vma.end_addr) for vma in named]
    meant = whereabouts(place, places)
    if meant.addr >= 1 << 64:
        raise UsageError(f"ptr:{place} is no address.", hint="An address has at most 16 hexadecimal digits.")
    return [(meant.addr, meant.addr + max(1, meant.rest_bytes))]


def _prefixes(ranges: list[runs.Range]) -> list[bytes]:
    """High bytes, one or more rows for each range, that its values begin with: as long as so few may be."""
    commons: list[bytes] = []
    for start, end in ranges:
        low, high = start.to_bytes(WORD_BYTES, "big"), (end - 1).to_bytes(WORD_BYTES, "big")
        same = next((at for at in range(WORD_BYTES) if low[at] != high[at]), WORD_BYTES)
        # One byte more where it has a few values only: 55d0c0ff0000-55d0c1010000 is 55d0c0 and 55d0c1.
        nexts = range(low[same], high[same] + 1) if same < WORD_BYTES else range(0)
        commons += [low[:same] + bytes([one]) for one in nexts] if 0 < len(nexts) <= _MAX_ANCHORS else [low[:same]]
    prefixes: set[bytes] = set()
    for n_bytes in range(WORD_BYTES, -1, -1):
        prefixes = {common[:n_bytes] for common in commons}
        prefixes = {one for one in prefixes if not any(one != other and one.startswith(other) for other in prefixes)}
        if len(prefixes) <= _MAX_ANCHORS:
            break
    return sorted(prefixes)

"""Manifests of an enemy who knows the format: each value in turn is something else, and all digests fit again.

What they say is the enemy's to choose. But no command may fail in a way of its own, take long, or drive the terminal.
By default a sample of all cases is tried; with --seconds more of them, at random from the seed that is printed.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from random import Random

from tests.fuzz.conftest import Bench
from tests.fuzz.manifests import NASTY, TERMINAL, Json, Place, body_of, fields_of, replaced, resealed, without
from tests.fuzz.readers import DAMAGED, NOT_THERE
from tests.fuzz.samples import Files
from tests.tally import Count, Tally

_DEFAULT_S = 3.0
INSPECT = 0  # the first of `commands_on`


def last_round(files: Files) -> int:
    return max(int(name.split("/")[0]) for name in files)


def problems_of(bench: Bench, files: Files, what: str, chosen: list[int] | None, tally: Tally) -> list[str]:
    endings = bench.endings(files, chosen)
    found = [problem for ending in endings for problem in ending.problems(allowed=(*DAMAGED, *NOT_THERE))]
    tally.add(Count.IMAGES_TRIED)
    tally.add(Count.IMAGES_MISREAD, int(bool(found)))
    return [*found, what] if found else []


def changed(random: Random, body: Json) -> tuple[Json, str]:
    """A manifest with up to three values replaced, taken away, or taken from another place of it."""
    done = []
    for _ in range(random.choice((1, 1, 2, 3))):
        fields = list(fields_of(body))
        place = random.choice(fields).place
        kind = random.random()
        if kind < 0.1:
            body = without(body, place)
            done.append(f"without {place}")
        else:
            value = random.choice(NASTY) if kind < 0.8 else random.choice(fields).value
            body = replaced(body, place, value)
            done.append(f"{place} is {value!r:.200}")
    return body, "; ".join(done)


def test_random_values(bench: Bench, tally: Tally, seconds: float | None, seed: int | None) -> None:
    case = secrets.randbits(48) if seed is None else seed
    end_s = time.monotonic() + (_DEFAULT_S if seconds is None else seconds / 4)
    bodies = {
        number: body_of(bench.sample.files[f"{number:04d}/manifest.json"])
        for number in range(1, last_round(bench.sample.files) + 1)
    }
    while True:
        random = Random(case)
        number = random.choice(sorted(bodies))
        body, what = changed(random, bodies[number])
        files = resealed(bench.sample.files, number, body)
        chosen = random.sample(range(len(bench.words)), 3)
        problems = problems_of(bench, files, f"round {number}: {what}", chosen, tally)
        assert not problems, f"--seed {case} --seconds 0\n" + "\n".join(problems)
        if time.monotonic() >= end_s:
            return
        case += 1


def places_of_each_kind(body: Json) -> Iterator[Place]:
    """One place of each kind: what is in one entry of a list is in the others, too."""
    seen = set()
    for field in fields_of(body):
        kind = tuple("*" if isinstance(step, int) else step for step in field.place)
        if kind not in seen:
            seen.add(kind)
            yield field.place


def test_every_string_may_drive_the_terminal(bench: Bench, tally: Tally) -> None:
    """Each in turn: where it is accepted, it is shown; where not, the error may tell of it."""
    number = last_round(bench.sample.files)
    body = body_of(bench.sample.files[f"{number:04d}/manifest.json"])
    problems = []
    for place in places_of_each_kind(body):
        for value in (TERMINAL, {TERMINAL: ""}):
            files = resealed(bench.sample.files, number, replaced(body, place, value))
            problems += problems_of(bench, files, f"{place} is {value!r}", [INSPECT], tally)
    assert problems == []

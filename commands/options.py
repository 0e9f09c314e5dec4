"""What the options of the commands mean, and those that several commands share."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import click

from display.reporter import Reporter

MAX_DEFAULT_THREADS = 8
IMAGE_PATH = click.Path(path_type=Path, readable=False)  # what may not be read is no wrong usage: it has its own error


class WorkOptions(TypedDict):
    """The options of `work_options`."""

    level: int
    threads: int
    staging: int
    bandwidth_limit: int | None
    cpu_limit: float | None
    quiet: bool


def _scaled(text: str, units: Sequence[tuple[str, float]]) -> int:
    """A number with one of the units at its end, times that unit's factor; -1 if it is none."""
    unit, factor = next(unit for unit in units if text.endswith(unit[0]))
    try:
        return int(float(text.removesuffix(unit)) * factor)
    except (ValueError, OverflowError):
        return -1


class Duration(click.ParamType[int]):
    """A time such as 20ms, 1.5s or 2 (seconds), as nanoseconds."""

    name = "time"
    UNITS = (("us", 1e3), ("ms", 1e6), ("s", 1e9), ("", 1e9))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        ns = _scaled(str(value).strip().lower(), self.UNITS)
        if ns < 0:
            self.fail(f"{value!r} is no time; write for example 20ms, 1.5s or 2", param, ctx)
        return ns


class Size(click.ParamType[int]):
    """A number of bytes such as 64M, 1G or 4096."""

    name = "size"
    UNITS = (("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30), ("", 1))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        n_bytes = _scaled(str(value).strip().lower().removesuffix("ib").removesuffix("b"), self.UNITS)
        if n_bytes <= 0:
            self.fail(f"{value!r} is no size; write for example 64M or 1G", param, ctx)
        return n_bytes


class Rate(click.ParamType[int]):
    """What goes through a link in a second, such as 1Gbit/s (a billion bits) or 100M/s, as bytes."""

    name = "size/s"
    UNITS = (("kbit", 1e3 / 8), ("mbit", 1e6 / 8), ("gbit", 1e9 / 8), ("bit", 1 / 8))

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().lower().removesuffix("/s")
        if not text.endswith("bit"):
            return Size().convert(text, param, ctx)
        n_bytes = _scaled(text, self.UNITS)
        if n_bytes <= 0:
            self.fail(f"{value!r} is no rate; write for example 1Gbit/s or 100M/s", param, ctx)
        return n_bytes


class Share(click.ParamType[float]):
    """A part of something, such as 50%, as a number up to 1."""

    name = "share"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / 100 if text.endswith("%") else 0.0
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is no share; write for example 50%", param, ctx)
        return share


class Words(click.ParamType[tuple[str, ...]]):
    """One or more of some words, with commas between."""

    name = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        found = tuple(str(value).split(","))
        for word in found:
            if word not in self.words:
                self.fail(f"{word!r} is none of {', '.join(self.words)}", param, ctx)
        return found


class Address(click.ParamType[int]):
    """A number, hexadecimal with 0x in front."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(str(value), 0)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"{value!r} is no number; write 4096 or 0x7f0000001000", param, ctx)
        return number


class Target(NamedTuple):
    """What -t or -p names: a process, with all its descendants if `tree`."""

    pid: int
    tree: bool

    @property
    def words(self) -> str:
        """As it stands on the command line."""
        return f"-{'t' if self.tree else 'p'} {self.pid}"


def target_options(function: Callable[..., int]) -> Callable[..., int]:
    """-t/--tree and -p/--pid, of which exactly one is needed; the command gets `target`."""

    @click.option(
        "-t",
        "--tree",
        type=click.IntRange(min=1),
        metavar="PID",
        help="The process and all its descendants.",
    )
    @click.option("-p", "--pid", type=click.IntRange(min=1), metavar="PID", help="Just that one process.")
    @functools.wraps(function)
    def wrapped(reporter: Reporter, *, tree: int | None, pid: int | None, **options: object) -> int:
        if (tree is None) == (pid is None):
            raise click.UsageError("name one process, with -t PID or -p PID")
        target = Target(pid, tree=False) if pid is not None else Target(tree or 0, tree=True)
        return function(reporter, target=target, **options)

    return wrapped


def directory_option(function: Callable[..., int]) -> Callable[..., int]:
    """-D/--images-dir."""
    return click.option(
        "-D",
        "--images-dir",
        "directory",
        type=IMAGE_PATH,
        required=True,
        metavar="DIR",
        help="The checkpoint; made if it is missing.",
    )(function)


def threads_option(text: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """--threads."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 64),
        default=lambda: min(os.cpu_count() or 1, MAX_DEFAULT_THREADS),
        show_default="one a processor",
        help=text,
    )


def handover_timeout_option(text: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """--handover-timeout."""
    return click.option("--handover-timeout", type=Duration(), default="5s", show_default=True, help=text)


level_option = click.option(
    "--level",
    type=click.IntRange(-7, 19),
    default=1,
    show_default=True,
    help="zstd level; 0 does not compress.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")


def work_options(function: Callable[..., int]) -> Callable[..., int]:
    """How to compress, and with how much memory."""
    for option in (
        level_option,
        threads_option("Threads that compress."),
        click.option(
            "--staging",
            type=Size(),
            default="256M",
            show_default=True,
            help="Memory that takes the last pages while the target is frozen.",
        ),
        click.option(
            "--cpu-limit",
            type=Share(),
            help="CPU time that compressing may take, such as 50% of all CPUs, at the lowest priority.",
        ),
        click.option(
            "--bandwidth-limit", type=Rate(), help="What to write per second at most, such as 200M or 1Gbit/s."
        ),
        quiet_option,
    ):
        function = option(function)
    return function


def policy_options(function: Callable[..., int]) -> Callable[..., int]:
    """When `run` is to take its dump."""
    for option in (
        click.option(
            "--timeout",
            type=Duration(),
            default="60s",
            show_default=True,
            help="Time for the rounds, at most.",
        ),
        click.option(
            "--max-freeze",
            type=Duration(),
            default="20ms",
            show_default=True,
            help="Dump once a freeze is predicted to fit this.",
        ),
        click.option(
            "--max-rounds",
            type=click.IntRange(min=1),
            default=20,
            show_default=True,
            help="Rounds before the dump, at most.",
        ),
    ):
        function = option(function)
    return function


path_argument = click.argument("path", type=IMAGE_PATH)
round_option = click.option(
    "--round", "number", type=click.IntRange(min=1), metavar="N", help="As of this round (default: the last)."
)
process_option = click.option(
    "--pid", type=click.IntRange(min=1), metavar="PID", help="Of this process (default: the root)."
)


sysroot_option = click.option(
    "--sysroot",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    metavar="DIR",
    help="Directory that stands for the root of the process's host: its executable and libraries are looked for there.",
)


def vma_options(function: Callable[..., int]) -> Callable[..., int]:
    """Which mappings are meant; the command gets a `selection`."""

    @click.option(
        "--vma",
        "words",
        multiple=True,
        metavar="WHICH",
        help="Only these mappings: heap, stack, anon, shm, a glob for the path, or an address. May be repeated.",
    )
    @click.option("--writable", is_flag=True, help="Only mappings that may be written to.")
    @click.option("--min-size", "min_bytes", type=Size(), default=0, metavar="SIZE", help="Only mappings of this size.")
    @functools.wraps(function)
    def wrapped(
        reporter: Reporter, *, words: tuple[str, ...], writable: bool, min_bytes: int, **options: object
    ) -> int:
        from analysis.selection import VmaSelection

        return function(reporter, selection=VmaSelection(words, writable, min_bytes), **options)

    return wrapped

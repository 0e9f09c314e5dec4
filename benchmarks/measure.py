"""The measurements. Alternatives are measured in turn, on the same target, in the same run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.bench import MIB, Bench, Command, Gcore
from benchmarks.figures import Figure, spread
from tests.harness import Target, number, parse_events

WRITER_PAGES_PER_S = 12_800  # 50 MB/s
SINCE_LAST_ROUND_S = 1.0
FLOOR_PASSES = 9
FREEZE_SLACK_MS = 2.0
GCORE_FACTOR = 100
STORED_SHARE = 1 / 3
IDLE_WORK_MS = 50.0
OWN_MEMORY_MIB = 150.0
EXPORT_MB_PER_S = 500
STAGING_MIB = 256  # predump's default
NO_GCORE = "gdb's gcore is not installed here"

Say = Callable[[str], None]


def ms(ns: float) -> float:
    """Nanoseconds as milliseconds."""
    return ns / 1e6


@dataclass(slots=True)
class OwnMemory:
    """Peak resident memory of predump's commands, staging memory taken off."""

    pre_dump_mib: list[float] = field(default_factory=list)
    dump_mib: list[float] = field(default_factory=list)

    def add(self, pre_dump: Command, dump: Command) -> None:
        """Takes note of one run."""
        self.pre_dump_mib.append(pre_dump.max_rss_bytes / MIB)
        self.dump_mib.append(dump.max_rss_bytes / MIB - STAGING_MIB)

    def figures(self, size: str) -> list[Figure]:
        """One for each command."""
        return [
            Figure(
                name=f"{size}: own memory of {command}",
                unit="MiB",
                measured=measured,
                limits=[OWN_MEMORY_MIB] * len(measured),
                note=note,
            )
            for command, measured, note in (
                ("pre-dump", self.pre_dump_mib, ""),
                ("dump", self.dump_mib, f"VmHWM without the staging memory of {STAGING_MIB} MiB"),
            )
        ]


@dataclass(slots=True)
class Freezes:
    """Final dumps of a target with a writer, each with its floor and its gcore."""

    frozen_ms: list[float] = field(default_factory=list)
    floor_ms: list[float] = field(default_factory=list)
    gcore_ms: list[float] = field(default_factory=list)
    details: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Keeps a number that explains others."""
        self.details.setdefault(name, []).append(value)

    def figures(self, size: str) -> list[Figure]:
        """Against the floor, and against gcore."""
        explained = ", ".join(f"{name} {spread(values)}" for name, values in self.details.items())
        against_gcore = Figure(
            name=f"{size}: frozen by dump, and by gcore",
            unit="ms",
            limit_name=f"stopped by gcore / {GCORE_FACTOR}",
            skipped="" if self.gcore_ms else NO_GCORE,
        )
        if self.gcore_ms:
            times = [g / f for g, f in zip(self.gcore_ms, self.frozen_ms, strict=True)]
            against_gcore = Figure(
                name=against_gcore.name,
                unit="ms",
                limit_name=against_gcore.limit_name,
                measured=self.frozen_ms,
                limits=[g / GCORE_FACTOR for g in self.gcore_ms],
                note=f"gcore keeps it stopped for {spread(self.gcore_ms)} ms (state 't' as seen from outside), "
                f"{spread(times)} times as long",
            )
        return [
            Figure(
                name=f"{size}: frozen by dump",
                unit="ms",
                limit_name=f"2 x floor + {FREEZE_SLACK_MS:g} ms",
                measured=self.frozen_ms,
                limits=[2 * floor + FREEZE_SLACK_MS for floor in self.floor_ms],
                note=f"floor {spread(self.floor_ms)} ms; {explained}",
                details=self.details,
            ),
            against_gcore,
        ]


def freezes(bench: Bench, target: Target, runs: int, say: Say) -> tuple[Freezes, OwnMemory]:
    """Pre-dump, the floor, a second's wait, the dump, gcore: so many times over."""
    found, memory = Freezes(), OwnMemory()
    target.command(f"rate {WRITER_PAGES_PER_S}")
    for i in range(runs):
        say(f"freeze {i + 1} of {runs}")
        _one_freeze(bench, target.pid, found, memory)
    target.command("rate 0")
    return found, memory


def _one_freeze(bench: Bench, pid: int, found: Freezes, memory: OwnMemory) -> None:
    with bench.directory() as directory:
        pre_dump = bench.predump("pre-dump", "-p", pid, "-D", directory, "--json")
        floor = bench.floor(pid, FLOOR_PASSES)
        time.sleep(SINCE_LAST_ROUND_S)
        dump = bench.predump("dump", "-p", pid, "-D", directory, "--json", "--leave-running")
    if bench.has_gcore:
        with bench.directory() as directory:
            found.gcore_ms.append(ms(bench.gcore(pid, directory).stopped_ns))
    memory.add(pre_dump, dump)
    found.frozen_ms.append(ms(number(dump.round, "frozen_ns")))
    found.floor_ms.append(ms(floor.total_ns))
    found.note("stop_ms", ms(floor.stop_ns))
    found.note("scan_ms", ms(floor.scan_ns))
    found.note("dump: scan_ms", ms(number(dump.round, "scan_ns")))
    found.note("copy_ms", ms(number(dump.round, "copy_ns")))
    found.note("pages_copied_frozen", number(dump.round, "pages_copied_frozen"))
    found.note("micro_rounds", number(dump.round, "micro_rounds"))
    found.note("attach_stop_ms", ms(number(pre_dump.round, "attach_stop_ns")))


def first_round(bench: Bench, target: Target, size: str, runs: int, say: Say) -> list[Figure]:
    """The first full round against gcore, into the same directory."""
    pre_dumps: list[Command] = []
    gcores: list[Gcore] = []
    resident_bytes = 0
    for i in range(runs):
        say(f"first round {i + 1} of {runs}")
        turns: list[Callable[[Path], None]] = [lambda path: pre_dumps.append(_full_round(bench, target.pid, path))]
        if bench.has_gcore:
            turns.insert(i % 2, lambda path: gcores.append(bench.gcore(target.pid, path)))
        for turn in turns:
            with bench.directory() as directory:
                resident_bytes = resident_bytes or _resident_bytes(target.pid)
                bench.touch_memory(resident_bytes + STAGING_MIB * MIB)
                turn(directory)
    return [_round_time(pre_dumps, gcores, size), _round_size(pre_dumps, size)]


def _full_round(bench: Bench, pid: int, directory: Path) -> Command:
    done = bench.predump("pre-dump", "-p", pid, "-D", directory, "--json")
    bench.predump("detach", "-p", pid)
    return done


def _resident_bytes(pid: int) -> int:
    """Field 2 of /proc/PID/statm: proc_pid_statm(5)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _round_time(pre_dumps: Sequence[Command], gcores: Sequence[Gcore], size: str) -> Figure:
    name, limit_name = f"{size}: first full round", "gcore, wall time"
    if not gcores:
        return Figure(name=name, unit="ms", limit_name=limit_name, skipped=NO_GCORE)
    rounds_ms = [ms(number(done.round, "duration_ns")) for done in pre_dumps]
    return Figure(
        name=name,
        unit="ms",
        limit_name=limit_name,
        measured=[ms(done.wall_ns) for done in pre_dumps],
        limits=[ms(done.wall_ns) for done in gcores],
        note=f"wall time of the commands; the round itself takes {spread(rounds_ms)} ms; gcore writes "
        f"{gcores[0].core_bytes / MIB:.0f} MiB uncompressed",
        details={"round_ms": rounds_ms},
    )


def _round_size(pre_dumps: Sequence[Command], size: str) -> Figure:
    rounds = [done.round for done in pre_dumps]
    shares = [number(r, "stored_bytes") / number(r, "raw_bytes") for r in rounds]
    return Figure(
        name=f"{size}: stored size of it",
        unit="",
        measured=shares,
        limits=[STORED_SHARE] * len(shares),
        note=f"share of the pages that are not zero ({number(rounds[0], 'pages_data')} pages; "
        f"{number(rounds[0], 'pages_zero')} zero pages take nothing)",
    )


def exports(bench: Bench, target: Target, size: str, runs: int, say: Say) -> list[Figure]:
    """A dump as a core, on tmpfs."""
    with bench.directory() as directory:
        say("a dump to export")
        bench.predump("dump", "-p", target.pid, "-D", directory / "checkpoint", "--json", "--leave-running")
        cores: list[Command] = []
        for i in range(runs):
            say(f"export {i + 1} of {runs}")
            core = directory / "core"
            bench.touch_memory(_resident_bytes(target.pid))
            cores.append(bench.predump("export", directory / "checkpoint", "--to", "core", "-o", core, "--json"))
            core.unlink()
    results = [parse_events(done.stdout)[-1] for done in cores]
    copied_bytes = [number(result, "data_bytes") for result in results]
    return [
        Figure(
            name=f"{size}: export to core",
            unit="ms",
            limit_name=f"{EXPORT_MB_PER_S} MB/s",
            measured=[ms(done.wall_ns) for done in cores],
            limits=[n_bytes / (EXPORT_MB_PER_S * 1e6) * 1e3 for n_bytes in copied_bytes],
            note=f"wall time of the command for {copied_bytes[0] / MIB:.0f} MiB that are not zero; "
            f"VmHWM {spread([done.max_rss_bytes / MIB for done in cores])} MiB",
        )
    ]


def idle_rounds(bench: Bench, target: Target, size: str, runs: int, say: Say) -> list[Figure]:
    """Rounds in which nothing was written: the round's own figure, and what the command takes beside starting."""
    rounds: list[Command] = []
    starts: list[Command] = []
    imports_s: list[float] = []
    with bench.directory() as directory:
        say("a full round before the idle ones")
        bench.predump("pre-dump", "-p", target.pid, "-D", directory, "--json")
        for i in range(runs):
            say(f"idle round {i + 1} of {runs}")
            starts.append(bench.predump("--version"))
            imports_s.append(bench.start_s())
            rounds.append(bench.predump("pre-dump", "-p", target.pid, "-D", directory, "--json"))
        bench.predump("detach", "-p", target.pid)
    start_ms = median(ms(start.wall_ns) for start in starts)
    import_ms = median(imports_s) * 1e3
    command_ms = [ms(done.wall_ns) - import_ms for done in rounds]
    round_ms = [ms(number(done.round, "duration_ns")) for done in rounds]
    written = [number(done.round, "pages_written") for done in rounds]
    return [
        Figure(
            name=f"{size}: idle round, {what}",
            unit="ms",
            measured=measured,
            limits=[IDLE_WORK_MS] * runs,
            note=note,
        )
        for what, measured, note in (
            ("by its duration_ns", round_ms, f"{spread(written)} pages written"),
            (
                "the command",
                command_ms,
                f"less {import_ms:.0f} ms of starting Python with the modules; `--version` takes {start_ms:.0f} ms",
            ),
        )
    ]

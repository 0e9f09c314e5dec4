"""Random sequences of operations and commands: drawn from a seed, and nothing else, so that each can be had again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

AGAIN = "pytest tests/stress --seed N"

OPERATIONS = tuple(
    "write zero read poke pwrite thread discard free remove remap protect lock guard unguard populate "  # noqa: SIM905
    "move swap leave huge brk stay fork".split()
)
"""Of tests/targets/churn.c."""
RATES = (50, 300, 1500)
"""Operations per second while commands run."""
MIB = 1 << 20


class How(StrEnum):
    """Where a command runs."""

    KEPT = "in one session with its neighbours"
    SESSION = "in a session of its own"
    CLI = "on the command line"


@dataclass(frozen=True)
class Told:
    """A line for the target."""

    line: str

    def __str__(self) -> str:
        return self.line


@dataclass(frozen=True)
class Command:
    """A command of predump.

    `compares`: its dump leaves the target stopped, and is compared with its memory; `keeps`: later rounds build on it.
    """

    name: str
    checkpoint: str
    how: How
    pre_dump: bool = True
    staging_mib: int = 64
    compares: bool = False
    keeps: bool = False

    def __str__(self) -> str:
        words = [self.name, self.checkpoint]
        words += [] if self.pre_dump else ["--no-pre-dump"]
        words += [f"--staging {self.staging_mib}M"] if self.staging_mib < 64 else []
        words += ["--leave-stopped, compare"] if self.compares else []
        words += ["--keep-tracking"] if self.keeps and self.name != "pre-dump" else []
        return f"predump {' '.join(words)} ({self.how})"


class Mishap(StrEnum):
    """What may happen to checkpoints between two commands."""

    COPIED = "the first checkpoint is copied over the other one"
    EXCHANGED = "the two checkpoints change names"
    LOST = "the last round of the first checkpoint is lost"


Step = Told | Command | Mishap


@dataclass(frozen=True)
class Sequence:
    """What is done, in order; `tree`: with all descendants of the target."""

    seed: int
    tree: bool
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        what = "a tree" if self.tree else "one process"
        return "\n".join([f"sequence {self.seed}, of {what}:", *(f"  {step}" for step in self.steps)])


class _Drawn:
    """A sequence that is being drawn."""

    def __init__(self, seed: int) -> None:
        self._random = random = Random(seed)
        self._tree = random.random() < 0.5
        self._operations = random.sample(OPERATIONS, random.randint(4, len(OPERATIONS)))
        self._checkpoints = ["one", "other"] if random.random() < 0.3 else ["one"]
        self._hows = random.choices([[How.KEPT], [How.SESSION], [How.KEPT, How.SESSION]], [1, 1, 3])[0]
        self._keeps = random.random() < 0.6
        self._steps: list[Step] = []

    def draw(self, seed: int) -> Sequence:
        for _ in range(self._random.randint(1, 3)):
            for _ in range(self._random.randint(2, 9)):
                step = self._random.choices(
                    [self._operate, self._command, self._start, self._exec, self._stop, self._mishap],
                    [50, 40, 12, 4, 4, 5],
                )[0]
                step()
            self._compare()
        return Sequence(seed, self._tree, tuple(self._steps))

    def _tell(self, line: str) -> None:
        self._steps.append(Told(line))

    def _some_seed(self) -> int:
        return self._random.randrange(1 << 32)

    def _operate(self) -> None:
        for _ in range(self._random.randint(1, 12)):
            self._tell(f"do {self._random.choice(self._operations)} {self._some_seed()}")

    def _start(self) -> None:
        # Children of the target that are not captured may write to what it shares with them while it stands still.
        alone = "" if self._tree else " alone"
        self._tell(f"start {self._random.choice(RATES)} {self._some_seed()}{alone}")

    def _stop(self) -> None:
        self._tell(self._random.choice(["stop", "end"]))

    def _exec(self) -> None:
        self._tell("exec")

    def _mishap(self) -> None:
        self._steps.append(self._random.choice([*Mishap] if len(self._checkpoints) > 1 else [Mishap.LOST]))

    def _command(self, *, compares: bool = False) -> None:
        name = self._random.choices(["pre-dump", "run", "dump", "detach", "flatten"], [12, 3, 4, 2, 2])[0]
        if compares:
            name = self._random.choices(["dump", "run"], [4, 1])[0]
        self._steps.append(
            Command(
                name,
                self._random.choice(self._checkpoints),
                How.CLI if self._random.random() < 0.06 else self._random.choice(self._hows),
                pre_dump=self._random.random() < 0.6,
                staging_mib=self._random.choices([64, 8, 1], [6, 1, 3])[0],
                compares=compares,
                keeps=self._keeps and not compares,
            )
        )

    def _compare(self) -> None:
        if not self._tree:
            self._tell("end")
        self._command(compares=True)


def sequence(seed: int) -> Sequence:
    """The sequence of that seed."""
    return _Drawn(seed).draw(seed)

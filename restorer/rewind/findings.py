"""What stands in the way of a rewind, and what it leaves as it is."""

from dataclasses import dataclass, field

from formats.errors import PredumpError

MAX_NAMED = 20


class RewindRefused(PredumpError):
    """The process cannot be put back; nothing of it was changed."""

    exit_code = 1


class RewindFailed(PredumpError):
    """Something failed while the process was being put back; the message says how it was left."""

    exit_code = 1


@dataclass(slots=True)
class Findings:
    """obstacles: why it cannot be done; left: what stays as it is now. Each is a part of a sentence."""

    obstacles: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def refuse(self, pid: int, number: int) -> None:
        """Raises RewindRefused if there are obstacles, with each of them."""
        if not self.obstacles:
            return
        named = self.obstacles[:MAX_NAMED]
        if len(self.obstacles) > MAX_NAMED:
            named.append(f"{len(self.obstacles) - MAX_NAMED} more")
        raise RewindRefused(
            f"process {pid} cannot be put back to round {number}: {'; '.join(named)}",
            hint="Nothing of it was changed. Rewind to another round, or restore this one as a new process.",
            pid=pid,
            round=number,
            obstacles=len(self.obstacles),
        )

"""A process in a few words, and where it ran."""

import shlex

from display.units import clip, printable
from formats.manifest import Host, Process

COMMAND_COLUMNS = 300
_WORDS_MAX = 100


def command_text(process: Process, columns: int = COMMAND_COLUMNS) -> str:
    """Its command line as a shell would read it, or its beginning; "" if nobody knows."""
    words = (word[: columns + 1] for word in process.cmdline[:_WORDS_MAX])
    return clip(printable(shlex.join(words)[: columns + 1]), columns)


def host_text(host: Host) -> str:
    """Its name and its system, as far as they are known: CRIU's images have the machine only."""
    system = " ".join(part for part in ("Linux", host.kernel_release, host.machine) if part)
    return f"{host.hostname}, {system}" if host.hostname else system

"""The guard of the command that --exec-after-freeze names: it runs it once, whatever becomes of predump.

    predump                                 guard
    text, one line of JSON        ---->     the command runs now, with this on its standard input
            <---- what went wrong, as JSON
    (closed before)               ---->     predump was killed: the command runs with the text of the command line

It runs as `python -m dumper.hookguard COMMAND TIMEOUT_S DIRECTORY TEXT` and needs the standard library only.
"""

import contextlib
import json
import signal
import sys
from pathlib import Path

from dumper.shellcommand import run_command


def main() -> None:
    """Entry point of the process."""
    command, timeout_s, directory, text = sys.argv[1:5]
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # what it is there for must be done
    problem = run_command(command, sys.stdin.readline() or text, float(timeout_s), Path(directory))
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(problem), flush=True)


if __name__ == "__main__":
    main()

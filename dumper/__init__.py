"""Everything about live processes: tracking, freezing, copying. docs/reading.md is the way in.

For programs, all that docs/python.md and docs/writewatch.md speak of can be imported from here.
"""

TYPE_CHECKING = False  # type checkers take it for that of `typing`, which the keeper has no other use for
if TYPE_CHECKING:
    from dumper.convergence import OnNoConverge, Policy
    from dumper.dump import AfterDump
    from dumper.observe import Observer
    from dumper.rounds import Options
    from dumper.session import Session, detach
    from dumper.streamdestination import open_stream
    from dumper.writewatch import WriteWatch
    from formats.chain import Checkpoint, MemoryView
    from formats.check import verify
    from formats.flatten import flatten_into
    from formats.replacing import flatten_in_place
    from streams.link import LinkOptions, listen
    from streams.receiver import Receiver
    from streams.tls import Credentials

__all__ = [
    "AfterDump",
    "Checkpoint",
    "Credentials",
    "LinkOptions",
    "MemoryView",
    "Observer",
    "OnNoConverge",
    "Options",
    "Policy",
    "Receiver",
    "Session",
    "WriteWatch",
    "detach",
    "flatten_in_place",
    "flatten_into",
    "listen",
    "open_stream",
    "verify",
]
__version__ = "0.1.0"

_MODULES = {
    "AfterDump": "dumper.dump",
    "Checkpoint": "formats.chain",
    "Credentials": "streams.tls",
    "LinkOptions": "streams.link",
    "MemoryView": "formats.chain",
    "Observer": "dumper.observe",
    "OnNoConverge": "dumper.convergence",
    "Options": "dumper.rounds",
    "Policy": "dumper.convergence",
    "Receiver": "streams.receiver",
    "Session": "dumper.session",
    "WriteWatch": "dumper.writewatch",
    "detach": "dumper.session",
    "flatten_in_place": "formats.replacing",
    "flatten_into": "formats.flatten",
    "listen": "streams.link",
    "open_stream": "dumper.streamdestination",
    "verify": "formats.check",
}


def __getattr__(name: str) -> object:
    """Loads what is exported when it is asked for: every command imports this package, few need all of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_MODULES[name]), name)

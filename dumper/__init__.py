"""Everything about live processes: tracking, freezing, copying. docs/reading.md is the way in.

`WriteWatch` is for programs that want to know what was written, and nothing else: docs/writewatch.md.
"""

TYPE_CHECKING = False  # type checkers take it for that of `typing`, which the keeper has no other use for
if TYPE_CHECKING:
    from dumper.writewatch import WriteWatch

__all__ = ["WriteWatch"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Loads what is exported when it is asked for: every command imports this package, few need all of it."""
    if name == "WriteWatch":
        from dumper.writewatch import WriteWatch  # noqa: PLC0415

        return WriteWatch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

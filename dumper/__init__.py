"""Everything about live processes: tracking, freezing, copying. docs/reading.md is the way in."""

__version__ = "0.1.0"

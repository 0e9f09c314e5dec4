"""The state of a stopped process: what a dump records of it beside its memory."""

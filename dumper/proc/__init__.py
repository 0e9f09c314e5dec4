"""/proc parsers: `parse_x(bytes)` is pure, `read_x(pid)` calls it. Each names the man page of its file."""

GONE_ERRORS = (FileNotFoundError, ProcessLookupError)
"""How a file in /proc shows that its process or thread is gone, or has closed what the file is about."""

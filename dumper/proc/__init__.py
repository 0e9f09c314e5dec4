"""/proc parsers: `parse_x(bytes)` is pure, `read_x(pid)` calls it. Each names the man page of its file."""

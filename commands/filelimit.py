"""How many files a command may have open."""

import resource


def allow_many_files() -> None:
    """As many as this user may: a file or two of each round of a chain are open at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

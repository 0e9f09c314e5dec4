"""Words for the places that a stream can go to. Without imports: every command knows them, few send."""

STDOUT = "-"
COMMAND_PREFIX = "exec:"
FORMS = "- for standard output, 'exec:COMMAND ...' for a command that receives, or tls://HOST:PORT"


def name_of(where: str) -> str:
    """For messages."""
    return "standard output" if where == STDOUT else where

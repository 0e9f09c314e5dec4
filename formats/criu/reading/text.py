"""Names and paths in CRIU's messages: bytes that the kernel gave."""


def decoded(name: bytes) -> str:
    """As our own records have them: a byte that is no text is a surrogate."""
    return name.decode("utf-8", "surrogateescape")

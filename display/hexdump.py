"""Bytes as a hex dump, as hexdump -C writes them."""

from collections.abc import Iterator

LINE_BYTES = 16


def hexdump(content: bytes, addr: int) -> Iterator[str]:
    """Lines of 16 bytes, the first at `addr`; runs of equal lines are shown once, with a "*" below."""
    previous = b""
    skipping = False
    for offset in range(0, len(content), LINE_BYTES):
        line = content[offset : offset + LINE_BYTES]
        if line == previous and offset + LINE_BYTES < len(content):
            if not skipping:
                yield "*"
            skipping = True
            continue
        previous, skipping = line, False
        digits = " ".join(line[:8].hex(" ").split()) + "  " + " ".join(line[8:].hex(" ").split())
        text = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in line)
        yield f"{addr + offset:012x}  {digits:<48}  |{text}|"

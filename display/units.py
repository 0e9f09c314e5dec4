"""Numbers as people read them."""

from datetime import UTC, datetime

from formats.layout import PAGE_BYTES

BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_text(n_bytes: int) -> str:
    """`n_bytes` in the largest unit that leaves at least 1."""
    value = float(n_bytes)
    for unit in BINARY_UNITS:
        if value < 1024 or unit == BINARY_UNITS[-1]:
            return f"{n_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def pages_text(pages: int) -> str:
    """The memory of so many pages."""
    return bytes_text(pages * PAGE_BYTES)


def pages_cell(pages: int) -> str:
    """The memory of so many pages in a few characters ("1.2G"), "-" for none."""
    return bytes_cell(pages * PAGE_BYTES)


def bytes_cell(n_bytes: int) -> str:
    """So many bytes in a few characters ("1.2G"), "-" for none."""
    if not n_bytes:
        return "-"
    number, unit = bytes_text(n_bytes).split()
    return number.removesuffix(".0") + unit[0]


def duration_text(ns: int) -> str:
    """Nanoseconds in µs, ms or s."""
    if abs(ns) < 1_000_000:
        return f"{ns / 1e3:.0f} µs"
    return f"{ns / 1e6:.1f} ms" if abs(ns) < 1_000_000_000 else f"{ns / 1e9:.2f} s"


def time_text(realtime_ns: int) -> str:
    """A CLOCK_REALTIME in local time."""
    try:
        moment = datetime.fromtimestamp(realtime_ns // 10**9, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{realtime_ns} ns after 1970"  # an image may claim any number
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def ratio_text(raw_bytes: int, stored_bytes: int) -> str:
    """How many times smaller the stored bytes are."""
    return f"{raw_bytes / stored_bytes:.1f}x" if raw_bytes and stored_bytes else "-"


def printable(text: str) -> str:
    """`text` with every character that a terminal might act on written as an escape: images may be hostile."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def clip(text: str, columns: int) -> str:
    """The beginning of `text`, with "…" behind where it had to be cut."""
    return text if len(text) <= columns else text[: columns - 1] + "…"


def tail(text: str, columns: int) -> str:
    """The end of `text`, with "…" in front where it had to be cut: of a path, the end says most."""
    return text if len(text) <= columns else "…" + text[len(text) - columns + 1 :]


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 process", "2 processes"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"

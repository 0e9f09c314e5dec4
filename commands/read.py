"""The command that prints memory."""

import sys
from pathlib import Path

import click

from commands.options import Address, path_argument, process_option, round_option
from display.reporter import Reporter
from display.units import bytes_text
from formats.errors import UsageError

READ_MAX_BYTES = 1 << 30


@path_argument
@click.argument("address", type=Address())
@click.argument("length", type=Address())
@round_option
@process_option
@click.option("--raw", is_flag=True, help="The bytes as they are, on stdout.")
def read(
    reporter: Reporter,
    path: Path,
    address: int,
    length: int,
    number: int | None,
    pid: int | None,
    raw: bool,
) -> int:
    """Print LENGTH bytes of memory from ADDRESS on.

    \b
      predump read /var/tmp/ck 0x7ffd1c0e2000 64
      predump read /var/tmp/ck 0x7ffd1c0e2000 4096 --raw | sha256sum
    """
    from display.hexdump import hexdump
    from formats.chain import MemoryView
    from formats.opening import open_images

    if raw and reporter.as_json:
        raise UsageError("--raw and --json exclude each other", hint="Choose one of them.")
    if length > READ_MAX_BYTES:
        raise UsageError(
            f"{length} bytes are too many for one read",
            hint=f"Read at most {bytes_text(READ_MAX_BYTES)} at once.",
        )
    checkpoint = open_images(path)
    with MemoryView(checkpoint, number, pid) as memory:
        content = memory.read(address, length)
    if raw:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    elif reporter.as_json:
        fields: dict[str, object] = {"addr": address, "length": length, "hex": content.hex()}
        reporter.result(fields | {"round": number or checkpoint.selected}, "")
    else:
        for line in hexdump(content, address):
            reporter.out.print(line, highlight=False, markup=False)
    return 0

"""The command that makes certificates to try TLS with."""

import socket
from pathlib import Path

import click

from commands.options import IMAGE_PATH
from display.reporter import Reporter


@click.option("-o", "--output", type=IMAGE_PATH, required=True, metavar="DIR", help="Where to write them.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name or number under which the receiver is reached (default: this host's name and loopback).",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
def keys(reporter: Reporter, output: Path, hosts: tuple[str, ...], force: bool) -> int:
    """Make certificates for tests: a CA, a sender and a receiver that trust each other.

    \b
    They are valid for 30 days, and for tests: for anything else, take those of a CA
    of yours. The CA's own key is not kept. Give ca.pem and receiver.* to one host,
    ca.pem and sender.* to the other.
      predump keys -o /tmp/keys --host backup.example.org
    """
    from streams.keys import VALID_DAYS, write_test_keys

    names = hosts or tuple(dict.fromkeys((socket.gethostname(), "localhost", "127.0.0.1", "::1")))
    paths = write_test_keys(output, names, force=force)
    reporter.result(
        {"files": [str(path.absolute()) for path in paths], "hosts": list(names), "valid_days": VALID_DAYS},
        f"{output}: certificates for tests, valid for {VALID_DAYS} days; the receiver is {', '.join(names)}.",
    )
    return 0

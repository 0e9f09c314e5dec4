"""The options of commands that use a link over TCP."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from commands.options import IMAGE_PATH, Duration, Size
from display.reporter import Reporter

if TYPE_CHECKING:
    from streams.link import LinkOptions
    from streams.news import Tell


_FILES = {
    "cert": "the certificate of this side",
    "key": "its private key",
    "ca": "the CA that vouches for the other side",
}


class LinkChoice(NamedTuple):
    """What the options say of a link."""

    cert: Path | None
    key: Path | None
    ca: Path | None
    window_bytes: int
    reconnect_ns: int
    parallel: int

    def options(self, tell: "Tell") -> "LinkOptions":
        """For the link, whose news `tell` gets. Raises click.UsageError, UsageError."""
        from streams.link import Credentials, LinkOptions, Timing

        credentials = None
        if self.cert and self.key and self.ca:
            credentials = Credentials(self.cert, self.key, self.ca)
        elif self.cert or self.key or self.ca:
            raise click.UsageError("TLS needs all three: --cert, --key and --ca")
        return LinkOptions(
            credentials=credentials,
            window_bytes=self.window_bytes,
            parallel=self.parallel,
            timing=Timing(reconnect_s=self.reconnect_ns / 1e9),
            tell=tell,
        )


def link_options(*, sends: bool) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """--cert, --key, --ca, --window, --reconnect-timeout, and --parallel to send; the command gets `link`."""
    added = [
        *(
            click.option(f"--{name}", type=IMAGE_PATH, metavar="FILE", help=f"TLS: {what} (PEM).")
            for name, what in _FILES.items()
        ),
        click.option(
            "--window",
            type=Size(),
            default="64M",
            show_default=True,
            help="TCP: what is on its way at most." if sends else "TCP: what is held in memory at most.",
        ),
        click.option(
            "--reconnect-timeout",
            type=Duration(),
            default="60s",
            show_default=True,
            help="TCP: how long the link may be down.",
        ),
    ]
    if sends:
        count = click.IntRange(1, 16)
        text = "TCP: connections that carry data."
        added.append(click.option("--parallel", type=count, default=1, show_default=True, help=text))

    def decorated(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapped(
            reporter: Reporter,
            *,
            cert: Path | None,
            key: Path | None,
            ca: Path | None,
            window: int,
            reconnect_timeout: int,
            parallel: int = 1,
            **options: object,
        ) -> int:
            link = LinkChoice(cert, key, ca, window, reconnect_timeout, parallel)
            return function(reporter, link=link, **options)

        for option in reversed(added):
            wrapped = option(wrapped)
        return wrapped

    return decorated

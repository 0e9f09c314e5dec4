"""The options that say how processes come back, of `restore` and of `receive --restore`."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from restorer.files.choices import OutsideChoice, TcpChoice


class Comeback(NamedTuple):
    """What was chosen: ids as they were or new ones, a pid namespace, connections, and what leads outside."""

    pid: str
    pid_namespace: bool
    tcp: str
    outside: str

    @property
    def same_pids(self) -> bool:
        """Whether they have the ids that they had."""
        return self.pid == "original"

    @property
    def tcp_choice(self) -> "TcpChoice":
        """For FileChoices."""
        from restorer.files.choices import TcpChoice

        return TcpChoice(self.tcp)

    @property
    def outside_choice(self) -> "OutsideChoice":
        """For FileChoices."""
        from restorer.files.choices import OutsideChoice

        return OutsideChoice(self.outside)


def comeback_options(when: str = "") -> Callable[[Callable[..., int]], Callable[..., int]]:
    """--pid, --pid-namespace, --tcp and --outside; the command gets `comeback`. `when` begins each help text."""

    def add(function: Callable[..., int]) -> Callable[..., int]:
        @click.option(
            "--pid",
            type=click.Choice(["original", "new"]),
            default="original",
            show_default=True,
            help=_begun(when, "The ids that the processes had, or new ones: what remembers an id is wrong then."),
        )
        @click.option(
            "--pid-namespace", is_flag=True, help=_begun(when, "In a pid namespace of their own, where ids are free.")
        )
        @click.option(
            "--tcp",
            type=click.Choice(["restore", "close"]),
            default="restore",
            show_default=True,
            help=_begun(when, "Established TCP connections go on (CAP_NET_ADMIN), or the program finds them reset."),
        )
        @click.option(
            "--outside",
            type=click.Choice(["refuse", "close"]),
            default="refuse",
            show_default=True,
            help=_begun(
                when, "Pipes, Unix connections and terminals that lead outside: no restore, or they are closed there."
            ),
        )
        @functools.wraps(function)
        def wrapped(
            *arguments: object, pid: str, pid_namespace: bool, tcp: str, outside: str, **options: object
        ) -> int:
            if pid_namespace and pid == "new":
                raise click.UsageError(
                    "In a new pid namespace all ids are free: --pid-namespace and --pid new exclude each other."
                )
            return function(*arguments, comeback=Comeback(pid, pid_namespace, tcp, outside), **options)

        return wrapped

    return add


def _begun(when: str, text: str) -> str:
    return f"{when}{text[0].lower()}{text[1:]}" if when else text

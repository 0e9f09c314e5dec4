"""The command that takes rounds until the freeze will be short."""

from dataclasses import asdict
from typing import Unpack

import click

from commands.options import Duration, Target, WorkOptions, policy_options, target_options, work_options
from commands.sessions import (
    EXIT_HOOK_FAILED,
    DumpChoices,
    dump_options,
    dump_text,
    handover_fields,
    open_dumping,
)
from commands.streaming import Place, place_options
from display.reporter import Reporter
from display.units import bytes_text

EXIT_NOT_CONVERGED = 3


@target_options
@place_options
@dump_options
@policy_options
@click.option("--interval", type=Duration(), default="0s", show_default=True, help="Pause between rounds.")
@click.option(
    "--on-no-converge",
    type=click.Choice(["accept", "cancel", "throttle"]),
    default="accept",
    show_default=True,
    help="Where rounds do not bring the freeze down to --max-freeze: dump all the same, let go of the target, or "
    "slow it down step by step.",
)
@click.option("--defer-hot", is_flag=True, help="Leave pages that most rounds find written for the freeze.")
@work_options
def run(
    reporter: Reporter,
    target: Target,
    place: Place,
    choices: DumpChoices,
    max_freeze: int,
    max_rounds: int,
    interval: int,
    timeout: int,
    on_no_converge: str,
    defer_hot: bool,
    **work: Unpack[WorkOptions],
) -> int:
    """Take rounds until the freeze will be short, then dump.

    \b
    After each round the frozen time of a dump taken now is predicted. Where
    rounds no longer shrink, or --max-rounds or --timeout is over,
    --on-no-converge decides. Exit code 3: it did not converge.
      predump run -p 1234 -D /var/tmp/ck --max-freeze 5ms
      predump run -t 1234 -D /var/tmp/ck --on-no-converge cancel
      predump run -p 1234 --to - | ssh host predump receive -D /var/tmp/ck
    """
    from dumper.convergence import OnNoConverge, Policy
    from dumper.dump import AfterDump

    policy = Policy(
        max_freeze_ns=max_freeze,
        max_rounds=max_rounds,
        timeout_ns=timeout,
        on_no_converge=OnNoConverge(on_no_converge),
        defer_hot=defer_hot,
    )
    with open_dumping(reporter, target, place, work, choices) as session:
        outcome = session.run(policy, AfterDump(choices.after), interval / 1e9)
    finished = outcome.finished
    if outcome.dumped:
        text = dump_text(finished, place, choices.after, session.handed_over)
    else:
        text = f"{place.words}: nothing was dumped, and process {finished.pid} is no longer tracked."
    if not outcome.converged:
        text += f"\nIt did not converge: {outcome.verdict.reason}."
    if outcome.deferred_bytes:
        text += f"\nRounds left {bytes_text(outcome.deferred_bytes)} of hot pages for the freeze."
    fields = {
        "deferred_bytes": outcome.deferred_bytes,
        "converged": outcome.converged,
        "dumped": outcome.dumped,
        "reason": outcome.verdict.reason,
        "hooks_failed": session.failed_hooks,
    }
    exit_code = 0 if outcome.converged else EXIT_NOT_CONVERGED
    if session.failed_hooks:
        exit_code = EXIT_HOOK_FAILED
    reporter.result(asdict(finished) | place.fields | fields | handover_fields(session), text, exit_code)
    return exit_code

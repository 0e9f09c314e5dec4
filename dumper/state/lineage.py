"""What a process is to others, as the record of a dump."""

from dumper.proc.stat import ProcessStat
from dumper.proc.status import ThreadStatus
from formats.processstate import Lineage


def lineage_record(stat: ProcessStat, status: ThreadStatus) -> Lineage:
    """From the files of its leader, which the exit signal is told of."""
    return Lineage(
        process_group=stat.process_group,
        session=stat.session,
        terminal=stat.terminal,
        exit_signal=stat.exit_signal,
        ns_pids=status.ns_pids,
        ns_process_groups=status.ns_process_groups,
        ns_sessions=status.ns_sessions,
    )

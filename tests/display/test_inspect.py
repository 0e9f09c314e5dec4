"""What `inspect` shows, on manifests made by hand, in narrow and wide terminals."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from formats.errors import UsageError
from formats.manifest import EndedProcess, FreezeBy, Manifest, Missing, RoundKind, Stats
from formats.openfiles import OpenFileKind
from formats.processstate import Descriptor, Limit, Namespace
from formats.threadstate import Restart
from tests.display import samples
from tests.display.samples import SERVER, WORKER, ZOMBIE, inspected, manifest_of, tree_manifest

WIDTHS = (80, 160)
HOSTILE = "\x1b[2J[bold]x[/nope]\r\n\x07\u202e\udcff:smile:"


def words(text: str) -> str:
    """The text without the line breaks and columns that depend on the width."""
    return " ".join(text.split())


def section(text: str, title: str) -> str:
    """The lines below a title, up to the next empty one."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    return "\n".join(lines[start + 1 : end])


def line_of(text: str, title: str, start: str) -> str:
    """The line of a table whose first cell is `start`."""
    return next(words(line) for line in section(text, title).splitlines() if line.split()[:1] == [start])


def assert_fits(text: str, columns: int) -> None:
    assert [line for line in text.splitlines() if cell_len(line) > columns] == []


@pytest.mark.parametrize("columns", [40, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    assert_fits(inspected(columns, tree_manifest()), columns)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_target_comes_first(columns: int) -> None:
    lines = inspected(columns, tree_manifest()).splitlines()
    assert words(lines[0]) == "process server, pid 4242, 2 threads, 1 child; root of 3 processes with 3 threads"
    assert words(lines[1]) == "command server --serve"


def test_the_order_is_that_of_what_is_asked_most() -> None:
    text = inspected(80, tree_manifest())
    titles = (
        "Not captured",
        "Rounds",
        "Processes",
        "Threads",
        "Open files",
        "Signals",
        "Memory obj",
        "VMAs",
        "Environ",
    )
    places = [re.search(f"^{title}", text, re.MULTILINE) for title in titles]
    assert [place.start() for place in places if place] == sorted(place.start() for place in places if place)
    assert None not in places


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_tree(columns: int) -> None:
    tree = section(inspected(columns, tree_manifest()), "Processes")
    rows = tree.splitlines()
    assert words(rows[1]) == "4242 server 2 10 2M 4000 4242"
    assert "4243    worker" in rows[2]
    assert "4244      helper" in rows[3]
    assert "zombie, killed by SIGKILL" in words(tree)
    assert "4300  gone" in tree
    assert "gone since the last round" in words(tree)


def test_zombies_say_how_they_ended() -> None:
    statuses = {10: 3 << 8, 11: 139, 12: 0}
    zombies = [samples.zombie(pid, status) for pid, status in statuses.items()]
    tree = section(inspected(160, manifest_of(samples.server(), *zombies)), "Processes")
    for note in ("zombie, exit code 3", "zombie, killed by SIGSEGV, core dumped", "zombie, exit code 0"):
        assert note in tree


@pytest.mark.parametrize("columns", WIDTHS)
def test_threads(columns: int) -> None:
    text = inspected(columns, tree_manifest())
    threads = words(section(text, "Threads of 4242 (server)"))
    assert "4242 server 0x7f123456789a" in threads
    assert "epoll_wait" in threads
    assert "4342 bio_lazy_free" in threads
    assert ("0x7ffc00001000" in threads) == (columns == 160)
    for note in ("blocks all", "SIGRTMIN+2 (3 times)", "SCHED_RR", "CPUs 1", "seccomp, 2"):
        assert note in threads


def test_how_each_system_call_goes_on() -> None:
    restarts = {
        Restart.FINISHED: "futex, finished",
        Restart.AGAIN: "futex, made again ",
        Restart.REMAINING: "futex, goes on with the time left",
        Restart.AGAIN_INSTEAD_OF_EINTR: "futex, made again, not EINTR",
    }
    threads = [samples.thread_of(SERVER + i, "t", 202, restart) for i, restart in enumerate(restarts)]
    process = replace(samples.server(), threads=[*threads, replace(samples.thread_of(99), system_call=None)])
    text = inspected(160, manifest_of(process))
    for tid, expected in enumerate(restarts.values(), start=SERVER):
        assert expected in line_of(text, "Threads", str(tid)) + " "
    assert line_of(text, "Threads", "99") == "99 server 0x7f123456789a 0x7ffc00001000 -"


def test_open_files_in_a_wide_terminal() -> None:
    text = inspected(160, tree_manifest())
    expected = [
        "0 terminal O_RDWR - /dev/pts/3; 24x80; session 4000, foreground group 4242; shared with pid 4243 fd 0",
        "1 file O_WRONLY|O_APPEND 123456 /var/log/app.log; shared with pid 4243 fd 1; flock write lock",
        "2 file O_RDWR|O_NONBLOCK|O_CLOEXEC 0 /tmp/scratch; deleted, content stored as object 2",
        "3 pipe O_RDONLY - pipe:[77]; 5 B in it, room for 64.0 KiB; other end is pid 4243 fd 3",
        "5 tcp O_RDWR|O_CLOEXEC - 127.0.0.1:6379 listen; backlog 511",
        "6 unix stream O_RDWR|O_CLOEXEC - established; 3 B in its queue (1 message); other end is pid 4243 fd 4",
        "8 epoll O_RDWR|O_CLOEXEC - watches 2 descriptors: fd 5 EPOLLIN|EPOLLET, fd 6 EPOLLOUT",
        "9 eventfd O_RDWR|O_CLOEXEC - count 4, semaphore",
        "10 timerfd O_RDWR|O_CLOEXEC - CLOCK_MONOTONIC, 1.20 s left, every 1.00 s, 3 expirations unread",
        "11 signalfd O_RDWR|O_CLOEXEC - SIGHUP SIGTERM",
    ]
    assert [words(line) for line in section(text, "Open files of 4242").splitlines()[1:]] == expected


def test_open_files_in_a_narrow_terminal() -> None:
    files = section(inspected(80, tree_manifest()), "Open files of 4242")
    assert re.search(
        r"^ 1  file +O_WRONLY\|O_APPEND +123456  /var/log/app.log; shared with pid *$", files, re.MULTILINE
    )
    assert re.search(r"^ 2  file +O_RDWR\|O_NONBLOCK\| +0  /tmp/scratch; deleted, content *$", files, re.MULTILINE)
    assert re.search(r"^ +O_CLOEXEC +stored as object 2 *$", files, re.MULTILINE)


def test_open_files_of_special_kinds() -> None:
    files = [
        samples.file_of(0, OpenFileKind.MEMFD, "/memfd:x", deleted=True, object=1),
        samples.file_of(1, OpenFileKind.FILE, "/tmp/x", deleted=True, owner=-7, owner_signal=34),
        samples.file_of(
            2, OpenFileKind.SOCKET, "", socket=samples.socket_of(10, 2, "", local="[::1]:53", peer="[::2]:9")
        ),
        samples.file_of(3, OpenFileKind.SOCKET, "", socket=samples.socket_of(1, 5, peer_inode=1, shutdown=2)),
        samples.file_of(4, OpenFileKind.INOTIFY, "anon_inode:inotify", inotify=[]),
        samples.file_of(5, OpenFileKind.DIRECTORY, "/srv", flags=0o10200000),
    ]
    descriptors = [Descriptor(fd=item.id, open_file=item.id, close_on_exec=False) for item in files]
    descriptors += [
        Descriptor(fd=7, open_file=0, close_on_exec=False),
        Descriptor(fd=8, open_file=99, close_on_exec=False),
    ]
    process = samples.process_of(SERVER, 1, "server", samples.state_of(SERVER, descriptors))
    text = inspected(160, manifest_of(process, open_files=files))
    assert [words(line) for line in section(text, "Open files").splitlines()[1:]] == [
        "0 memfd O_RDWR 0 /memfd:x; content stored as object 1; shared with fd 7",
        "1 file O_RDWR 0 /tmp/x; deleted, content not stored; SIGRTMIN to group 7",
        "2 udp6 O_RDWR - [::1]:53 -> [::2]:9",
        "3 unix seqpacket O_RDWR - established; no more writing; other end is not in the round",
        "4 inotify O_RDWR - watches 0 files",
        "5 directory O_DIRECTORY|O_PATH 0 /srv",
        "7 memfd O_RDWR 0 /memfd:x; content stored as object 1; shared with fd 0",
        "8 - - - the round does not hold what it is",
    ]


@pytest.mark.parametrize("columns", WIDTHS)
def test_signals_and_timers(columns: int) -> None:
    text = inspected(columns, tree_manifest())
    assert line_of(text, "Signals of 4242", "SIGPIPE") == "SIGPIPE ignored"
    assert line_of(text, "Signals of 4242", "SIGTERM") == "SIGTERM 0x558100000123 SA_SIGINFO SA_RESTART SIGHUP"
    assert "SIGCHLD" not in text  # its disposition is the default
    assert words(section(text, "Pending signals")) == "process SIGUSR1 thread 4342 SIGRTMIN+2 (3 times)"
    assert words(section(text, "Timers")) == (
        "ITIMER_REAL in 400.0 ms, every 1.00 s "
        "timer 0 CLOCK_MONOTONIC, SIGRTMIN+1 to thread 4242, in 250.0 ms, 2 overruns"
    )


@pytest.mark.parametrize("columns", WIDTHS)
def test_memory(columns: int) -> None:
    text = inspected(columns, tree_manifest())
    assert line_of(text, "Memory objects", "1") == "1 shmem 1.0 MiB 800K - 4242 4243 /dev/shm/board"
    assert line_of(text, "Memory objects", "2") == "2 deleted 1.0 MiB 4K - nobody /tmp/scratch"
    heap = line_of(text, "VMAs of 4242", "558100100000")
    if columns == 160:
        assert heap == "558100100000 rw-p 512K 400K 8K 80K 24K ? - ███████████████▓▓▓░· [heap]"
    else:
        assert heap == "558100100000 rw-p 512K ? - ███████▓░· [heap]"
    assert "board (object 1)" in line_of(text, "VMAs of 4242", "558100200000")
    assert "1 guard range (MADV_GUARD_INSTALL), 8.0 KiB" in text


def test_long_notes_stand_once_below_a_narrow_table() -> None:
    note = "kernel data, made anew for every process"
    vmas = [samples.vma_of(i, f"/some/where/far/away/number{i}", note=note, object=i) for i in range(3)]
    manifest = manifest_of(replace(samples.server(), vmas=vmas))
    assert f"/some/where/far/away/number2 (object 2, {note})" in inspected(200, manifest)
    narrow = section(inspected(80, manifest), "VMAs")
    assert "…ber2 (object 2) [1]" in narrow
    assert narrow.count(note) == narrow.count(f"[1] {note}") == 1


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_environment(columns: int) -> None:
    text = inspected(columns, tree_manifest())
    expected = {
        "relations": "parent 1, group 4242, session 4000",
        "users": "uid 0; gid 0",
        "capabilities": "effective all",
        "limits": "STACK 8M:inf, NOFILE 1024:524288",
        "CPUs": "0-1",
        "umask": "0022",
        "directory": "/srv/app",
        "root": "/",
        "cgroup": "/system.slice/app.service",
        "namespaces": "net 4026531840 (not the same in the whole tree)",
    }
    for name, value in expected.items():
        assert line_of(text, "Environment of 4242", name) == f"{name} {value}"
    assert "settings" not in text  # they are what everybody has


def test_an_unusual_environment() -> None:
    credentials = replace(
        samples.credentials_of(1000, samples.ALL_CAPS & ~(1 << 21)),
        uids=[1000, 0, 0, 0],
        groups=list(range(20)),
        cap_inheritable=1 << 10,
        no_new_privs=True,
    )
    plain = samples.state_of(SERVER)
    state = replace(
        plain,
        credentials=credentials,
        lineage=replace(plain.lineage, terminal=136 << 8 | 5, ns_pids=[SERVER, 1]),
        oom_score_adj=-900,
        monotonic_offset_ns=-5_000_000_000,
        prctl={"dumpable": 0, "child_subreaper": 1, "mce_kill": 2, "xcomp_perm": 231},
        cgroups=["2:cpu:/a:b", "1:name=systemd:/a:b", "0::/c"],
        limits=[Limit(resource=99, soft=1, hard=1)],
    )
    process = samples.process_of(SERVER, 1, "server", state)
    text = inspected(160, manifest_of(process))
    for expected in (
        "terminal pts/5, pid 1 in its pid namespace",
        "uid real 1000, effective 0, saved 0, file system 0; gid 1000; groups 0 1 2 3 4 5 6 7 and 12 more",
        "effective all but CAP_SYS_ADMIN; inheritable CAP_NET_BIND_SERVICE; no new privileges",
        "limit 99 1",
        "monotonic -5.00 s",
        "oom_score_adj -900, dumpable 0, child_subreaper 1 ",
        "2:cpu:/a:b, 1:name=systemd:/a:b, 0::/c",
    ):
        assert expected in text


def test_one_cgroup_in_many_hierarchies_is_shown_once() -> None:
    state = replace(samples.state_of(SERVER), cgroups=["2:cpu:/app", "1:name=systemd:/app", "0::/app"])
    text = inspected(80, manifest_of(samples.process_of(SERVER, 1, "server", state)))
    assert line_of(text, "Environment", "cgroup") == "cgroup /app"


def test_shared_memory_that_an_object_holds_is_not_absent() -> None:
    vma = samples.vma_of(0, "/dev/zero (deleted)", "shmem", object=1)
    board = samples.object_of(1, "shmem", "/dev/zero")
    text = inspected(120, manifest_of(replace(samples.server(), vmas=[vma], unreadable=[]), objects=[board]))
    assert line_of(text, "VMAs", "558100000000") == "558100000000 rw-p 512K - - - - - - ·········· /dev/zero (object 1)"


def test_namespaces_that_all_share_are_no_news() -> None:
    assert "namespaces" not in inspected(80, manifest_of(samples.server()))


def test_the_details_of_another_process() -> None:
    text = inspected(160, tree_manifest(), pid=WORKER)
    assert line_of(text, "Open files of 4243 (worker)", "3") == (
        "3 pipe O_WRONLY - pipe:[77]; 5 B in it, room for 64.0 KiB; other end is pid 4242 fd 3"
    )
    assert "net 4026532000" in text
    assert "Threads of 4242" not in text


def test_the_details_of_a_zombie() -> None:
    text = inspected(80, tree_manifest(), pid=ZOMBIE)
    assert "Process 4244 is a zombie" in text
    assert "Threads" not in text


def test_a_process_that_is_not_in_the_round() -> None:
    with pytest.raises(UsageError, match=r"Round 1 of .* has no process 4300\.") as raised:
        inspected(80, tree_manifest(), pid=4300)
    assert raised.value.hint == "Its processes are 4242, 4243, 4244."
    assert raised.value.fields["pid"] == 4300


def pre_dump_of(manifest: Manifest) -> Manifest:
    """The same tree as a pre-dump round has it: no state at all."""
    processes = [
        replace(
            process,
            state=None,
            missing=[],
            threads=[replace(samples.thread_of(thread.tid, thread.name), registers={}) for thread in process.threads],
        )
        for process in manifest.processes
    ]
    return replace(
        manifest, kind=RoundKind.PRE_DUMP, processes=processes, open_files=[], pipes=[], objects=[], ended=[]
    )


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_pre_dump_round_has_no_state(columns: int) -> None:
    text = inspected(columns, pre_dump_of(tree_manifest()))
    assert "pages may be torn until a dump, which also takes the state" in words(text)
    assert line_of(text, "Threads of 4242", "4242") == "4242 server"
    assert "4243    worker" in text
    for title in ("Open files", "Signals", "Pending", "Timers", "Memory objects", "relations", "umask"):
        assert title not in text
    assert_fits(text, columns)


def test_one_process_needs_no_tree() -> None:
    process = samples.process_of(SERVER, 1, "server", samples.state_of(SERVER))
    text = inspected(80, manifest_of(process))
    assert "Processes" not in text
    assert "\nThreads\n" in text
    assert words(text.splitlines()[0]) == "process server, pid 4242, 1 thread"


def test_what_the_freeze_consists_of() -> None:
    stats = Stats(frozen_ns=3_000_000, stop_ns=50_000, scan_ns=700_000, copy_ns=2_000_000, resume_ns=20_000)
    text = inspected(160, replace(tree_manifest(), stats=stats, freeze_by=FreezeBy.COPY))
    assert "freeze by copy: stop 50 µs, scan 700 µs, copy 2.0 ms, resume 20 µs" in words(text)


def test_rounds() -> None:
    first = pre_dump_of(tree_manifest())
    second = replace(tree_manifest(), round=2, streamed_while_frozen=True)
    text = inspected(160, first, second)
    assert line_of(text, "Rounds", "1") == "1 pre-dump - - 390.6 KiB 2.5x 5.0 ms - it is the first round"
    assert line_of(text, "Rounds", "2").endswith("it is the first round; streamed while frozen")


# --- hostile images ---------------------------------------------------------------------------------


def hostile_manifest() -> Manifest:
    """A tree whose every string wants to do something to the terminal."""
    manifest = tree_manifest()
    state = samples.server().state
    assert state is not None
    state = replace(
        state,
        cwd=HOSTILE,
        root=HOSTILE,
        cgroups=[HOSTILE],
        namespaces=[Namespace(kind=HOSTILE, inode=1)],
        prctl={HOSTILE: 1},
        locks=[replace(lock, kind=HOSTILE, mode=HOSTILE) for lock in state.locks],
    )
    hostile = replace(
        samples.server(),
        name=HOSTILE,
        exe=HOSTILE,
        exe_build_id=HOSTILE,
        cmdline=[HOSTILE],
        state=state,
        threads=[replace(samples.thread_of(SERVER), name=HOSTILE)],
        vmas=[samples.vma_of(0, HOSTILE, kind=HOSTILE, note=HOSTILE)],
        missing=[Missing(what=HOSTILE, reason=HOSTILE)],
    )
    socket = samples.socket_of(local=HOSTILE, peer=HOSTILE, state=HOSTILE)
    files = [replace(item, path=HOSTILE, socket=socket if item.socket else None) for item in samples.open_files()]
    objects = [samples.object_of(1, HOSTILE, HOSTILE)]
    ended = [EndedProcess(pid=1, start_time_ticks=1, name=HOSTILE)]
    host = replace(manifest.host, hostname=HOSTILE, kernel_release=HOSTILE, machine=HOSTILE)
    processes = [hostile, replace(samples.worker(), name=HOSTILE)]
    manifest = replace(manifest, processes=processes, open_files=files, objects=objects, ended=ended, host=host)
    return replace(manifest, full_reason=HOSTILE)


@pytest.mark.parametrize("columns", WIDTHS)
def test_strings_cannot_drive_the_terminal(columns: int) -> None:
    text = inspected(columns, hostile_manifest())
    assert {c for c in text if not c.isprintable()} == {"\n"}
    assert "[bold]x[/nope]" in text
    assert_fits(text, columns)


def test_endless_strings_are_cut() -> None:
    process = replace(samples.server(), name="n" * 100_000, exe="e" * 100_000, cmdline=["c" * 100_000] * 3)
    process = replace(process, missing=[Missing(what="w" * 100_000, reason="r" * 100_000)])
    text = inspected(80, manifest_of(process, full_reason="f" * 100_000))
    assert len(text.splitlines()) < 200


def test_endless_tables_are_cut() -> None:
    n = 100_000
    descriptors = [Descriptor(fd=fd, open_file=0, close_on_exec=False) for fd in range(n)]
    process = samples.process_of(SERVER, 1, "server", samples.state_of(SERVER, descriptors))
    threads = [samples.thread_of(tid) for tid in range(1, 5001)]
    ended = [EndedProcess(pid=pid, start_time_ticks=1, name="x") for pid in range(5000)]
    manifest = manifest_of(replace(process, threads=threads), open_files=[samples.file_of(0)], ended=ended)
    text = inspected(80, manifest)
    assert "... and 99,800 more" in text
    assert "... and 4,800 more" in text
    assert "... and 4,801 more" in text
    assert "shared with fd 1, fd 2, fd 3 and 99,996 more" in words(text)


def test_parents_in_a_circle_are_shown_once() -> None:
    a, b, c = (samples.process_of(pid, ppid, f"p{pid}") for pid, ppid in ((SERVER, SERVER), (8, 9), (9, 8)))
    tree = section(inspected(80, manifest_of(a, b, c)), "Processes")
    assert [line.split()[0] for line in tree.splitlines()[1:]] == [str(SERVER), "8", "9"]


def test_a_chain_of_processes_stays_on_the_screen() -> None:
    chain = [samples.process_of(pid, pid - 1, f"p{pid}") for pid in range(2, 102)]
    assert_fits(inspected(80, manifest_of(*chain)), 80)


@pytest.mark.parametrize("number", [-(1 << 63), -1, 0, (1 << 64) - 1])
def test_numbers_that_make_no_sense(number: int) -> None:
    """Whatever integer an image may hold, in whatever place, it can be shown."""
    manifest = tree_manifest()
    spoiled = samples.spoiled(manifest, number)
    assert isinstance(spoiled, Manifest)
    for columns in WIDTHS:
        assert_fits(inspected(columns, spoiled), columns)

"""How fast opaque bytes go over a link on loopback: `python -m tests.link.speed [--parallel N] [--plain]`."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from streams.keys import write_test_keys
from streams.link import Credentials, LinkOptions, connect, listen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--message-kib", type=int, default=1024)
    parser.add_argument("--plain", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        keys = Path(name)
        write_test_keys(keys, ["localhost"], force=True)
        sides = {
            role: None if chosen.plain else Credentials(keys / f"{role}.pem", keys / f"{role}.key", keys / "ca.pem")
            for role in ("sender", "receiver")
        }
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with listen("0", LinkOptions(credentials=sides["receiver"]), lambda _: 0) as listener:
                os.write(writer, f"{listener.address.port}".encode())
                with listener.accept() as incoming:
                    number = 0
                    while incoming.receive() is not None:
                        number += 1
                        incoming.acknowledge(number)
            os._exit(0)
        port = int(os.read(reader, 16))
        message = os.urandom(chosen.message_kib << 10)
        n_messages = (chosen.mib << 10) // chosen.message_kib
        options = LinkOptions(credentials=sides["sender"], parallel=chosen.parallel)
        outgoing = connect(f"tcp://127.0.0.1:{port}" if chosen.plain else f"tls://localhost:{port}", options)
        begin_s = time.monotonic()
        for _ in range(n_messages):
            last = outgoing.send([message])
        outgoing.wait_for(last)
        duration_s = time.monotonic() - begin_s
        outgoing.close()
        os.waitpid(child, 0)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_s = [item.ru_utime + item.ru_stime for item in used]
        gigabytes = n_messages * len(message) / 1e9
        sys.stdout.write(
            f"{gigabytes / duration_s:.2f} GB/s; CPU per GB: sender {cpu_s[0] / gigabytes:.2f} s, "
            f"receiver {cpu_s[1] / gigabytes:.2f} s, {used[1].ru_maxrss >> 10} MiB at most\n"
        )


if __name__ == "__main__":
    main()

"""`make demo`: a sample service that keeps writing is pre-dumped in rounds, dumped, verified and inspected."""

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVICE = """
import ctypes, random, time
ctypes.CDLL(None).prctl(1, 9)                    # never outlive the demo
table = bytearray(64 << 20)
for at in range(0, len(table), 64):
    table[at:at + 8] = at.to_bytes(8, "little")
print("ready", flush=True)
counter = 0
while True:
    counter += 1
    for _ in range(200):
        at = random.randrange(len(table) // 8) * 8
        table[at:at + 8] = counter.to_bytes(8, "little")
    time.sleep(0.005)
"""
ROUNDS = 3
PAUSE_S = 0.5


def predump(*arguments: str) -> None:
    """Runs one command, shown as a user would type it."""
    print(f"\n$ predump {shlex.join(arguments)}", flush=True)
    subprocess.run([str(Path(sys.executable).parent / "predump"), *arguments], check=True)


def main() -> None:
    """Runs the demo; ends with an error if one of its commands does."""
    service = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE)
    try:
        assert service.stdout is not None
        service.stdout.readline()
        pid = str(service.pid)
        print(f"A sample service runs as process {pid}: it keeps changing its 64 MiB table.")
        with tempfile.TemporaryDirectory(prefix="predump-demo-") as directory:
            checkpoint = str(Path(directory) / "checkpoint")
            predump("check")
            for _ in range(ROUNDS):
                predump("pre-dump", "-p", pid, "-D", checkpoint)
                time.sleep(PAUSE_S)  # the service goes on writing; nothing is waited for
            predump("dump", "-p", pid, "-D", checkpoint)
            predump("verify", checkpoint)
            predump("inspect", checkpoint)
        alive = service.poll() is None
        print(f"\nThe service {'runs on' if alive else 'has died'}.")
        if not alive:
            raise SystemExit(1)
    finally:
        service.kill()
        service.wait()


if __name__ == "__main__":
    main()

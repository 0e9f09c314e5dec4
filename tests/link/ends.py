"""One side of a link as a program: `python -m tests.link.ends send|receive KEYS ADDRESS MESSAGES PARALLEL`.

The receiver says `listening PORT` first; both say in the end, as JSON, what happened.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from streams.link import Credentials, LinkOptions, connect, listen
from tests.link.peers import HASTY, Digest, News, message

TIMING = replace(HASTY, reconnect_s=60)
WINDOW_BYTES = 16 << 20


def main() -> None:
    role, keys, address, n_messages, parallel = sys.argv[1:]
    place = Path(keys)
    who = "sender" if role == "send" else "receiver"
    news = News()
    options = LinkOptions(
        credentials=Credentials(place / f"{who}.pem", place / f"{who}.key", place / f"{who}-ca.pem"),
        timing=TIMING,
        parallel=int(parallel),
        window_bytes=WINDOW_BYTES,
        tell=news,
    )
    digest = Digest()
    if role == "send":
        outgoing = connect(address, options)
        for number in range(1, int(n_messages) + 1):
            outgoing.send([message(number)])
        outgoing.wait_for(int(n_messages))
        outgoing.close()
    else:
        with listen(address, options, lambda _: 0) as listener:
            print(f"listening {listener.address.port}", flush=True)
            with listener.accept() as incoming:
                while (item := incoming.receive()) is not None:
                    digest.update(item)
                    incoming.acknowledge(digest.n_messages)
    print(json.dumps({"digest": digest.text, "messages": digest.n_messages, "told": news.told}), flush=True)


if __name__ == "__main__":
    main()

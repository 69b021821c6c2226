"""Many clients for many minutes before the router while everything goes wrong; exit status 1 where a claim fails.

    python -m tests.live.soak                                        # 200 clients: 10 min fake server, 3 min real one
    python -m tests.live.soak --minutes 1 --real-minutes 0.5         # a rehearsal

Clients, router and server are processes of their own on this machine. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.live.real_servers import missing
from tests.live.soak.run import Soak, fake_server, real_server


def main() -> int:
    """The command line; returns the exit status."""
    options = argparse.ArgumentParser(prog="python -m tests.live.soak", description="Soak the router.")
    options.add_argument("--clients", type=int, default=200, help="that ask again and again (default 200)")
    options.add_argument("--minutes", type=float, default=10.0, help="before the fake server, 0 = leave out (10)")
    options.add_argument("--real-minutes", type=float, default=3.0, help="before xllamacpp, 0 = leave out (3)")
    options.add_argument("--seed", type=int, default=0, help="of clients and faults")
    given = options.parse_args()
    good = True
    for serve, minutes in ((fake_server, given.minutes), (real_server, given.real_minutes)):
        if minutes <= 0:
            continue
        if serve is real_server and (why := missing("xllamacpp")) is not None:
            print(f"no real server: {why}; pip install -c constraints.txt -e '.[servers]'")
            good = False
            continue
        with tempfile.TemporaryDirectory(prefix="cace-soak-") as folder:
            soak = Soak(Path(folder), given.clients, 60 * minutes, given.seed)
            asyncio.run(soak.run(serve))
        print(soak.table(), flush=True)
        good &= not soak.failed and not soak.late
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

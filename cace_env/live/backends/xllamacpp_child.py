"""One model in a process of its own: run by `xllamacpp.py` as a file, it imports nothing of this package.

It writes where it listens as a line of JSON once the model serves, and ends when its input ends: when its parent closes
it, or is no more.
"""

from __future__ import annotations

import json
import os
import sys


def main(path: str, settings: str) -> None:
    """Serves the model until the input ends.

    Args:
        path: of a GGUF file.
        settings: JSON with `threads`, and values of `xllamacpp.CommonParams` by name.
    """
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library writes goes to the log
    import xllamacpp

    chosen = json.loads(settings)
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port = 0  # any that is free
    params.hostnames = ["127.0.0.1"]
    params.cpuparams.n_threads = chosen.pop("threads")
    for name, value in chosen.items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)  # returns when the model is loaded
    told.write(json.dumps({"url": server.listening_address}) + "\n")
    told.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # the memory goes with the process; nothing is left to put in order


if __name__ == "__main__":
    main(*sys.argv[1:])

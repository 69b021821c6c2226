"""Logs of gateways: column maps for those known here (`known.py`), and one engine that reads any of them.

Rows come in blocks (`flat_blocks.py`, `json_blocks.py`), columns become numbers and times (`cells.py`), rows become
requests or are left out and counted (`rows.py`), requests come into order (`runs.py`), and `importing.py` writes them
with an audit record. Modules here need pyarrow (extra `traces`), but for `columns.py` and `known.py`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cace_env.traces.limits import TraceError


def require(path: Path) -> None:
    """Name the extra if pyarrow is missing.

    Raises:
        TraceError: it is.
    """
    try:
        found = importlib.util.find_spec("pyarrow") is not None
    except ValueError:
        found = False
    if not found:
        raise TraceError(f"{path}: reading this log needs pyarrow; run: pip install 'cace-env[traces]'")

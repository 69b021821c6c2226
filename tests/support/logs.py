"""Small logs of every public format, and where the real ones are looked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMPLETION, CHAT, REASONING, AGENT = range(4)


@dataclass(frozen=True)
class Model:
    name: str
    tasks: Sequence[str]
    popularity: float = 1.0


MODELS = (
    Model("coder-1.5b", ("completion",)),
    Model("coder-7b", ("completion", "chat")),
    Model("coder-32b", ("chat", "agent")),
    Model("r1-14b", ("reasoning",)),
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
CLAUDE = "session,agent,t_s,model,in_tokens,out_tokens,prefix_shared_tokens,api_time_s,think_time_s\n"
ROWS = AZURE + "".join(f"2023-11-16 18:17:{second:02d}.5000000,{100 + second},{10 + second}\n" for second in range(4))


def shared_file(name: str) -> Path:
    """A real trace, or a skip where they are absent."""
    root = Path(__file__).resolve().parents[2]
    for folder in (root.parent / "shared" / "data", root / "shared" / "data"):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(
        f"{name} is not in shared/data, beside the repository or in it: real traces are not redistributed, "
        "see docs/traces.md"
    )


def written(folder: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    return written(folder, "".join(json.dumps(row) + "\n" for row in rows), "log.jsonl")


RATES = "client,t,rate,cv,pattern,p1,p2\n"
TOKENS = "model,client,in_p10,in_p50,in_p90,in_p99,out_p10,out_p50,out_p90,out_p99\n"


def servegen(folder: Path, rates: str) -> dict[str, Any]:
    tokens = written(
        folder, TOKENS + "m,0,10,20,30,40,1,2,3,4\nm,1,1000,2000,3000,4000,100,200,300,400\n", "tokens.csv"
    )
    return {"path": written(folder, RATES + rates, "servegen_m_rates.csv"), "tokens_path": str(tokens)}


def own(
    folder: Path, body: str, header: str = "time,context_tokens,output_tokens,model,task,user,after,think_s"
) -> Path:
    return written(folder, header + "\n" + body)


def log_of(folder: Path, rows: int, models: str = "", users: int = 5) -> Path:
    body = "".join(f"{row},100,10,{models and models[row % len(models)]},,u{row % users},,\n" for row in range(rows))
    return own(folder, body)

"""What `live validate` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from cace_env.config import Frozen
from cace_env.live.calibration import Plan
from experiments.running.command_line import metavar
from experiments.validation.workloads import KINDS


class Validate(Frozen):
    """Hold the simulator against your server: the same requests under the same policies by both."""

    backend: Annotated[str, tyro.conf.Positional, metavar("KIND:WHERE")] = Field(
        default="", description="the server, see docs/live.md; llama.cpp:FOLDER starts one over a folder of GGUF files"
    )
    out: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="gets all that is measured, and the report; must not be there yet"
    )
    from_: Annotated[Path | None, tyro.conf.arg(name="from"), metavar("FOLDER")] = Field(
        default=None,
        description="makes the report of what has been measured anew, whole or broken off; needs no server",
    )
    policies: Annotated[tuple[str, ...], metavar("POLICY ...")] = Field(
        default=("lru", "agent:eviction"), description="who decides, in turn; two at least"
    )
    workloads: Annotated[tuple[str, ...], metavar("NAME ...")] = Field(
        default=tuple(KINDS), min_length=1, description=f"requests of which kind: {', '.join(KINDS)}"
    )
    requests: int = Field(default=140, ge=10, le=100_000, description="of each run")
    repeats: int = Field(default=2, ge=1, le=100, description="of each policy over each workload")
    simulations: int = Field(default=40, ge=1, le=10_000, description="with jitter, of each policy over each workload")
    seed: int = Field(default=0, ge=0, description="of requests and jitter")
    scale: float = Field(default=1.0, gt=0, le=1000, description="prompts and answers are so many times as long")
    pace: Annotated[float | None, metavar("NUMBER")] = Field(
        default=None, gt=0, le=1e6, description="pauses of clients are so many times as long; default: simulated first"
    )
    memory_gb: Annotated[float | None, metavar("GB")] = Field(
        default=None, gt=0, le=1e6, description="what models may take together; default: 0.65 of what all need"
    )
    drain_after_s: float = Field(default=5.0, ge=0, le=1e6, description="waiting after which busy models may be chosen")
    files: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="where NAME.gguf of each model lies, for its memory; known where WHERE is a folder"
    )
    memory: Annotated[Path | None, metavar("FILE.yaml")] = Field(
        default=None, description="how much each model takes, where the server does not say: lines 'qwen-7b: 4.7 GB'"
    )
    seats: int = Field(default=4, ge=1, le=4096, description="requests that the server writes at once")
    kv_tokens: int = Field(default=8192, ge=64, le=1 << 31, description="of the KV cache of each model")
    chunk_tokens: int = Field(default=256, ge=1, le=1 << 31, description="prompt tokens per round")
    cores: Annotated[tuple[int, int] | None, metavar("SERVING LOADING")] = Field(
        default=(0, 1), description="of a llama.cpp that is started here: the accelerator, and the core of all else"
    )
    calibrations: int = Field(default=3, ge=1, le=1000, description="of each measurement of a calibration")
    lengths: tuple[int, ...] = Field(default=(16, 48, 128, 256), min_length=2, description="of its prompts [tokens]")
    contexts: tuple[int, ...] = Field(default=(16, 128), min_length=1, description="before its timed tokens [tokens]")
    tokens: int = Field(default=12, ge=4, le=100_000, description="written by each of its timed requests")
    most_drift: float = Field(
        default=10.0, gt=0, le=1e6, description="between the two calibrations [%]; above it nothing counts"
    )
    key_file: Annotated[Path | None, metavar("FILE")] = Field(default=None, description="the server's API key")
    load_s: float = Field(default=600.0, gt=0.0, description="a load may take so many seconds")
    write: Annotated[Path | None, metavar("FILE.md")] = Field(
        default=None, description="fill the tables of docs/validation.md"
    )

    @property
    def plan(self) -> Plan:
        """Of a calibration."""
        batches = tuple(batch for batch in (1, 2, 4) if batch <= self.seats)
        return Plan(self.calibrations, self.lengths, batches, self.contexts, self.tokens)

"""Measured coefficients of a model, in place of those that the formulas give."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from cace_env.config import Frozen
from cace_env.fleets.catalogue import Figure
from cace_env.tables import FOREVER, MAX_DURATION_US

MOST_BATCHES: Final = 257  # entries of batch_ns


class Measured(Frozen):
    """Columns of the integer tables as they were measured, the same on every accelerator of the fleet.

    `python -m experiments.calibrate` writes them; `docs/tables.md` says what the kernel makes of them.
    """

    weights_bytes: int = Field(ge=1, le=FOREVER, description="size of the weights")
    need_bytes: int = Field(ge=1, le=FOREVER, description="of memory: weights, KV cache and runtime")
    load_us: tuple[int, int] = Field(description="from host RAM (page cache) and from disk [us]")
    unload_us: int = Field(ge=0, le=MAX_DURATION_US, description="[us]")
    round_ns: int = Field(ge=0, le=FOREVER, description="a round without requests [ns]")
    decode_ns: int = Field(ge=0, le=FOREVER, description="added per decoding request [ns]")
    kv_ps: int = Field(ge=0, le=FOREVER, description="added per token of context [ps]")
    prefill_ns: int = Field(ge=0, le=FOREVER, description="per prompt token [ns]")
    attention_ps: int = Field(ge=0, le=FOREVER, description="per pair of prompt tokens [ps]")
    batch_ns: tuple[Annotated[int, Field(ge=0, le=FOREVER)], ...] = Field(
        default=(0,),
        min_length=1,
        max_length=MOST_BATCHES,
        description="added to a round with 0, 1, 2, ... decoding requests, then decode_ns for each more [ns]",
    )
    request_ns: int = Field(default=0, ge=0, le=FOREVER, description="per request, beside its prompt [ns]")

    @property
    def token_ns(self) -> int:
        """A round with one decoding request, without its context."""
        return self.round_ns + self.batches_ns(1)[1]

    def batches_ns(self, most: int) -> tuple[int, ...]:
        """`batch_ns` for 0 to `most` decoding requests at least."""
        last = len(self.batch_ns) - 1
        more = range(1, most - last + 1)
        return (*self.batch_ns, *(self.batch_ns[-1] + each * self.decode_ns for each in more))

    @property
    def weights_gb(self) -> Figure:
        """What takes its place in a row of the catalogue, which has no source for it."""
        return Figure(self.weights_bytes / 1e9, "measured", "own")

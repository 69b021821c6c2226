"""ServeGen: requests drawn from a rate and a gap distribution per client and window of 600 s.

ServeGen publishes no requests, only how each client's arrivals and token counts are distributed (Xiang et al., arXiv
2505.09999). A window gets `rate * 600` requests, rounded at random; their gaps come from the window's Gamma or Weibull
distribution, scaled so that they fill the window: the measured rate is kept exactly, the shape gives the burstiness.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cace_env.traces.config import REQUIRED_COLUMNS, TraceConfig, setting
from cace_env.traces.limits import TraceError
from cace_env.traces.reading import Table, read_table
from cace_env.traces.trace import Int64Array, Trace, codes, draw_quantiles, stream

WINDOW_S: Final = 600
LEVELS: Final = (0.1, 0.5, 0.9, 0.99)
MAX_DRAWN: Final = 20_000_000  # requests; more is probably a mistake


def read_servegen(path: Path, config: TraceConfig) -> Trace:
    """Draw requests from rates; `skip` counts windows, `limit` requests.

    `limit` does not change the remaining requests, `skip` does not change their arrivals.

    Raises:
        TraceError: the token table is missing or lacks the model, a pattern is unknown, or there would be far too many
            requests.
    """
    table = read_table(path, REQUIRED_COLUMNS["servegen"])
    client, client_ids = codes(table.texts("client"))
    patterns = table.texts("pattern")
    for row, pattern in enumerate(patterns):
        if pattern not in ("Gamma", "Weibull"):
            raise table.error(row, "pattern", "is neither 'Gamma' nor 'Weibull'; correct or remove the row")
    shape, rate = table.floats("p1"), table.seconds("rate")
    if (shape <= 0).any():
        raise table.error(int(np.argmax(shape <= 0)), "p1", "is not above 0; a shape has to be")
    window = table.times_us("t") // (WINDOW_S * 1_000_000)
    in_knots, out_knots, borrowed = _client_tokens(table, client_ids, config)
    wanted = window >= window.min() + config.skip
    if not wanted.any():
        raise TraceError(f"{path}: skip={config.skip} windows of {WINDOW_S} s leaves no window; use a smaller skip")
    gamma = np.array([pattern == "Gamma" for pattern in patterns])
    time_us, rows = _draw_arrivals(path, np.flatnonzero(wanted), window, client, rate, shape, gamma, config)
    user = client[rows]
    uniform = stream(config.seed, "tokens").random((len(rows), 2))
    notes = [f"windows of {WINDOW_S} s, measured rate kept, gaps Gamma or Weibull; tokens from client quantiles"]
    if borrowed:
        notes.append(f"{borrowed} of {len(client_ids)} clients have no token quantiles: they borrow a drawn client's")
    return Trace(
        time_us=time_us - time_us[0],
        context_tokens=draw_quantiles(LEVELS, in_knots[user], uniform[:, 0]),
        new_tokens=None,
        output_tokens=draw_quantiles(LEVELS, out_knots[user], uniform[:, 1]),
        user=user,
        rows_read=table.rows,
        altered=("arrivals drawn", "tokens drawn"),
        notes=tuple(notes),
    )


def _draw_arrivals(
    path: Path,
    wanted: Int64Array,
    window: Int64Array,
    client: Int64Array,
    rate: npt.NDArray[np.float64],
    shape: npt.NDArray[np.float64],
    gamma: npt.NDArray[np.bool_],
    config: TraceConfig,
) -> tuple[Int64Array, Int64Array]:
    """Arrival times and the row of `wanted` each comes from, window by window until `limit` is reached."""
    expected = float(rate[wanted].sum()) * WINDOW_S
    if expected > MAX_DRAWN and config.limit is None:
        raise TraceError(
            f"{path}: would draw {expected:.3g} requests, at most {MAX_DRAWN} without a limit; set "
            f"{setting('limit', 'N')}"
        )
    order = wanted[np.lexsort((client[wanted], window[wanted]))]
    starts = np.flatnonzero(np.diff(window[order], prepend=-1))
    times, sources, count = [], [], 0
    for group in np.split(order, starts[1:]):
        # A stream per window: the first and last window that are read must not change the draws of another.
        rng = stream(config.seed, "arrivals", int(window[group[0]]))
        in_window = [_fill(rng, rate[row], shape[row], bool(gamma[row])) for row in group]
        rows = np.repeat(group, [len(offsets) for offsets in in_window])
        time_us = np.concatenate(in_window) + int(window[group[0]]) * WINDOW_S * 1_000_000
        by_time = np.argsort(time_us, kind="stable")
        times.append(time_us[by_time])
        sources.append(rows[by_time])
        count += len(rows)
        if config.limit is not None and count >= config.limit:
            break
    if count == 0:
        raise TraceError(f"{path}: no request was drawn: all rates are 0; check the column 'rate'")
    return np.concatenate(times)[: config.limit], np.concatenate(sources)[: config.limit]


def _fill(rng: np.random.Generator, rate: float, shape: float, gamma: bool) -> Int64Array:
    """Offsets [us] of one client's requests in one window; n + 1 gaps scaled to fill it, so that all are alike."""
    expected = rate * WINDOW_S
    count = int(expected + rng.random())
    gaps = rng.standard_gamma(shape, count + 1) if gamma else rng.weibull(shape, count + 1)
    total = float(gaps.sum())
    if total == 0.0:  # every gap underflowed: shapes near 0
        return np.zeros(count, np.int64)
    return (np.cumsum(gaps)[:count] / total * (WINDOW_S * 1_000_000 - 1)).astype(np.int64)


def _client_tokens(
    table: Table, client_ids: tuple[str, ...], config: TraceConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
    """Prompt and output quantiles (clients, levels) of the model with these rates, and how many were borrowed.

    Without the clients that have none, a third to a half of the requests of the published days would be missing.
    """
    if config.tokens_path is None:
        raise TraceError(
            f"{table.path}: ServeGen rates have no tokens; set "
            f"{setting('tokens_path', 'FILE')} (servegen_client_tokens.csv.gz)"
        )
    names = [f"{side}_p{round(100 * level)}" for side in ("in", "out") for level in LEVELS]
    tokens = read_table(config.tokens_path, ("model", "client", *names))
    models = tokens.texts("model")
    model = config.tokens_model
    if model is None:
        found = re.search(r"servegen_(.+)_rates", table.path.name)
        model = found[1] if found else None
    if model not in models:
        known = ", ".join(sorted(set(models)))
        raise TraceError(
            f"{tokens.path}: has no model {model!r}; set {setting('tokens_model', 'NAME')}, one of {known}"
        )
    knots = np.stack([tokens.floats(name, empty=0.0) for name in names], axis=1)
    clients = tokens.texts("client")
    of_model = {clients[row]: row for row, name in enumerate(models) if name == model and (knots[row] > 0).all()}
    if not of_model:
        raise TraceError(
            f"{tokens.path}: model {model!r} has no client with prompt and output quantiles; choose another"
        )
    missing = [name for name in client_ids if name not in of_model]
    lenders = list(of_model.values())
    lent = stream(config.seed, "tokens", 1).integers(0, len(lenders), len(missing))
    rows = of_model | {name: lenders[place] for name, place in zip(missing, lent, strict=True)}
    chosen = knots[[rows[name] for name in client_ids]]
    return chosen[:, : len(LEVELS)], chosen[:, len(LEVELS) :], len(missing)

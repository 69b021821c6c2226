"""Attachment of missing data to a log, to make a workload: reproducible, and listed in the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from cace_env.config import did_you_mean, one_line
from cace_env.tables import NONE, TASKS, FloatArray
from cace_env.traces.config import TraceConfig, setting
from cace_env.traces.limits import TraceError
from cace_env.traces.trace import Int64Array, Trace, draw_quantiles, stream
from cace_env.traces.windows import trained_on
from cace_env.workload import Workload

# Token quantiles by task for logs without token counts: levels, all prompt tokens, new ones (None: all), output tokens.
# completion: Azure 2023 code; chat: Azure 2023 conversation; reasoning: ServeGen deepseek-r1; agent: Claude Code.
TOKENS_OF_TASK: Final[dict[str, tuple[tuple[float, ...], tuple[int, ...], tuple[int, ...] | None, tuple[int, ...]]]] = {
    "completion": ((0.1, 0.5, 0.9, 0.99), (147, 1469, 5188, 7436), None, (7, 13, 55, 251)),
    "chat": ((0.1, 0.5, 0.9, 0.99), (207, 1020, 2734, 4142), None, (54, 129, 424, 601)),
    "reasoning": ((0.1, 0.5, 0.9, 0.99), (18, 208, 2092, 23423), None, (287, 792, 3432, 12607)),
    "agent": ((0.1, 0.5, 0.9), (42_000, 104_000, 234_000), (232, 728, 4895), (105, 216, 898)),
}


class ServedModel(Protocol):
    """The attributes of a catalogue model that traces need; its position in the sequence is its index.

    `cace_env.generator.ServedModel` is one. If a model also has a number `popularity`, `drawn` ranks by it.
    """

    @property
    def name(self) -> str:
        """Name in the catalogue."""

    @property
    def tasks(self) -> Sequence[str]:
        """The tasks it serves, the main one first; names from `cace_env.tables.TASKS`."""


def attach(trace: Trace, config: TraceConfig, models: Sequence[ServedModel] | None) -> Workload:
    """Make a workload from `trace`.

    Every step has its own random stream: changing one step does not change the draws of others.

    Args:
        trace: data of the log.
        config: how to attach the rest.
        models: the catalogue in index order; None: the log's own models, the most used first.

    Raises:
        TraceError: data is missing, and no option says how to attach it.
    """
    said = list(trace.altered)
    user = trace.user
    if config.users:
        if user is not None:
            raise _error(config, f"users: {config.users}, but the log has its own users; leave the option out")
        user = stream(config.seed, "users").integers(0, config.users, len(trace))
        said.append("users drawn")
    task = _tasks(trace, config, user)
    if config.tasks is not None:
        said.append("tasks drawn" if isinstance(config.tasks, dict) else f"tasks all {config.tasks}")

    names, serves = _catalogue(trace, config, models)
    hints = np.array([float(getattr(served, "popularity", 1.0)) for served in models or ()])
    how = config.attach or ("real" if trace.model is not None else "drawn")
    if how == "real":
        model, renamed = _real(trace, config, names)
        said += ["models real (mapped)"] if renamed else []
    elif how == "client-as-model":
        model = _client_as_model(trace, config, user, len(names))
        said.append("models client-as-model")
    else:
        model = _drawn(config, task, user, serves, hints)
        said.append("models drawn")

    if (task == NONE).any():
        if models is None:
            raise _error(config, f"some requests of the log have no task; set {setting('tasks', 'chat')}, or shares")
        main_task = np.array([TASKS.index(served[0]) for served in serves])
        task = np.where(task == NONE, main_task[model], task)
        said.append("tasks of the model")
    context, new, output = trace.context_tokens, trace.new_tokens, trace.output_tokens
    if context is None or output is None:
        context, new, output = _tokens(task, config.seed)
        said.append("tokens drawn")

    request = np.arange(len(trace))
    session = request if trace.session is None else trace.session
    return Workload.from_columns(
        label=_label(config, said),
        meta={
            "rows_read": trace.rows_read,
            "requests": len(trace),
            "dropped": dict(trace.dropped),
            "began_us": trace.began_us,  # since 1970, UTC; None: the log's clock is not absolute
            "span_s": float(trace.time_us[-1]) / 1e6,  # before compression
            "time_compression": config.time_compression,
            "attach": how,
            "attached": said,
            "model_names": list(names),
            "seed": config.seed,
            "notes": list(trace.notes),
        },
        arrival_us=_compressed(trace.time_us, config),
        after=np.full(len(trace), NONE) if trace.after is None else trace.after,
        think_us=np.zeros(len(trace), np.int64) if trace.think_us is None else _compressed(trace.think_us, config),
        model=model,
        task=task,
        context_tokens=context,
        new_tokens=context if new is None else new,
        output_tokens=output,
        user=session if user is None else user,
        session=session,
    )


def _error(config: TraceConfig, problem: str) -> TraceError:
    return TraceError(f"{config.path} ({config.format}): {problem}")


def _label(config: TraceConfig, said: Sequence[str]) -> str:
    """Make the label: "trace" only if nothing was attached; both kinds include the time compression."""
    changes = list(said)
    if config.time_compression != 1.0:
        changes.append(f"time x{config.time_compression:g} compressed")
    kind = "composite" if said else "trace"
    return f"{kind} {config.format}" + (f": {', '.join(changes)}" if changes else "")


def _compressed(time_us: Int64Array, config: TraceConfig) -> Int64Array:
    if config.time_compression == 1.0:
        return time_us
    return np.rint(time_us / config.time_compression).astype(np.int64)


def _tasks(trace: Trace, config: TraceConfig, user: Int64Array | None) -> Int64Array:
    """The configured tasks, once per user, else the log's own; NONE if neither is known."""
    if config.tasks is None:
        return np.full(len(trace), NONE) if trace.task is None else trace.task
    shares = {config.tasks: 1.0} if isinstance(config.tasks, str) else config.tasks
    people = np.arange(len(trace)) if user is None else user
    weights = np.array(list(shares.values()))
    drawn = stream(config.seed, "tasks").choice(len(weights), int(people.max()) + 1, p=weights / weights.sum())
    wanted = np.array([TASKS.index(name) for name in shares])
    return wanted[drawn[people]]


def _catalogue(
    trace: Trace, config: TraceConfig, models: Sequence[ServedModel] | None
) -> tuple[list[str], list[Sequence[str]]]:
    """Names and tasks of the models in index order."""
    if models is None:
        if trace.model is None or config.attach == "drawn":
            reason = "attach: drawn" if trace.model is not None else "a log that names no models"
            raise _error(config, f"{reason} needs the catalogue; pass models=")
        ids = [config.mapping.get(name, name) for name in trace.model_ids]
        uses: dict[str, int] = {}
        for code, count in enumerate(np.bincount(trace.model, minlength=len(ids))):
            uses[ids[code]] = uses.get(ids[code], 0) + int(count)
        names = sorted(uses, key=lambda name: -uses[name])
        return names, [()] * len(names)
    if not models:
        raise _error(config, "models is empty; pass at least one model")
    for served in models:
        unknown = [name for name in served.tasks if name not in TASKS]
        if unknown or not served.tasks:
            shown = repr(unknown[0]) if unknown else "no task"
            raise _error(config, f"model {served.name!r} serves {shown}; the tasks are {', '.join(TASKS)}")
    return [served.name for served in models], [served.tasks for served in models]


def _real(trace: Trace, config: TraceConfig, names: Sequence[str]) -> tuple[Int64Array, bool]:
    """The log's own models as indices, and whether any of them has another name in the catalogue."""
    if trace.model is None:
        raise _error(config, "attach: real, but the log names no models; use drawn or client-as-model")
    stale = [name for name in config.mapping if name not in trace.model_ids]
    if stale:
        raise _error(config, f"mapping names {stale[0]!r}, which is not in the log; it has {_listed(trace.model_ids)}")
    index = {name: place for place, name in enumerate(names)}
    targets = [config.mapping.get(name, name) for name in trace.model_ids]
    for name, target in zip(trace.model_ids, targets, strict=True):
        if target not in index:
            raise _error(
                config,
                f"model {one_line(target)!r} is not in the catalogue{did_you_mean(target, names)}; map "
                f"{one_line(name)!r} to one of its models with {setting('mapping', f'{{{one_line(name)}: MODEL}}')}, "
                f"or set {setting('attach', 'client-as-model')} or drawn",
            )
    column = np.array([index[target] for target in targets])[trace.model]
    return column, targets != list(trace.model_ids)


def _client_as_model(trace: Trace, config: TraceConfig, user: Int64Array | None, num_models: int) -> Int64Array:
    ids = trace.model if trace.model is not None else user
    if ids is None:
        raise _error(
            config,
            "attach: client-as-model, but the log has neither models nor users; use drawn, or set "
            + setting("users", "N"),
        )
    # Popularity is measured: what is judged on the test part may not know how often a model is asked for there.
    known = len(ids) if config.part == "all" else trained_on(len(ids), config.train_share)
    uses = np.bincount(ids[:known], minlength=int(ids.max()) + 1)
    rank = np.empty(len(uses), np.int64)
    rank[np.argsort(-uses, kind="stable")] = np.arange(len(uses))
    return rank[ids] % num_models


def _drawn(
    config: TraceConfig, task: Int64Array, user: Int64Array | None, serves: Sequence[Sequence[str]], hints: FloatArray
) -> Int64Array:
    """Zipf over the models that serve the task, ranked by `hints` and then by a draw; sticky per user and task."""
    rng = stream(config.seed, "models")
    by_popularity = rng.permutation(len(serves))
    by_popularity = by_popularity[np.argsort(-hints[by_popularity], kind="stable")]
    uniform = rng.random((len(task), 2))
    model = np.empty(len(task), np.int64)
    for code in np.unique(task):
        able = [m for m in by_popularity if code == NONE or TASKS[code] in serves[m]]
        if not able:
            raise _error(
                config,
                f"no model serves {TASKS[code]!r}; add one, or choose other tasks, as by {setting('tasks', TASKS[0])}",
            )
        rows = np.flatnonzero(task == code)
        weights = np.arange(1, len(able) + 1) ** -config.zipf_exponent
        chosen = np.searchsorted(np.cumsum(weights / weights.sum()), uniform[rows, 0], side="right")
        model[rows] = np.array(able)[np.minimum(chosen, len(able) - 1)]
    if user is None:
        return model
    return _kept(model, user * (len(TASKS) + 1) + task + 1, uniform[:, 1] < config.stickiness)


def _kept(model: Int64Array, group: Int64Array, keep: npt.NDArray[np.bool_]) -> Int64Array:
    """Within each group, a row that keeps its model takes that of the last row that did not."""
    order = np.argsort(group, kind="stable")
    keep = keep[order]
    keep[np.flatnonzero(np.diff(group[order], prepend=NONE))] = False  # the first row of a group has no model to keep
    source = np.maximum.accumulate(np.where(keep, 0, np.arange(len(order))))
    result = np.empty_like(model)
    result[order] = model[order][source]
    return result


def _tokens(task: Int64Array, seed: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Prompt, new and output tokens by the quantiles of each request's task."""
    uniform = stream(seed, "tokens").random((len(task), 3))
    columns = np.empty((3, len(task)), np.int64)
    for code in np.unique(task):
        rows = np.flatnonzero(task == code)
        levels, prompt, new, output = TOKENS_OF_TASK[TASKS[code]]
        columns[0, rows] = draw_quantiles(levels, prompt, uniform[rows, 0])
        columns[1, rows] = columns[0, rows] if new is None else draw_quantiles(levels, new, uniform[rows, 1])
        columns[2, rows] = draw_quantiles(levels, output, uniform[rows, 2])
    return columns[0], np.minimum(columns[1], columns[0]), columns[2]


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

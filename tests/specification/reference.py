"""The rules of the simulator as an executable specification: plain, slow, readable.

Written from `docs/design.md` and not from the compiled kernel, so that the two can be held against each other, event by
event. Numbers in brackets, such as (2.4), are sections of that page. Nothing is kept incrementally: free memory is
summed from scratch, the next event is the least of all outstanding ones, and clocks are integers that cannot overflow.
What Swap-v0 asks is in `tests/specification/swap.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cace_env.tables import DISK, HOST, NONE, TASKS, FleetTables
from cace_env.workload import Workload
from tests.specification import swap as reference_swap

ROUND = 1 << 20  # clocks count rounds in units of 2^-20
MIN_ROUND_NS = 1000
REGRET_US = 60_000_000  # a load that starts sooner after the model's eviction is a regret load (8)

TOKEN_END, UNLOAD_END, LOAD_END, ARRIVAL, TIMER = range(5)  # priorities of simultaneous events (1)


@dataclass(frozen=True)
class Question:
    """What a policy is asked: which slot to evict or, in Swap-v0, which model to load. One question is one decision."""

    now_us: int
    decision: int  # 0 for the first question of the run
    target: int  # the model that shall be loaded; -1 = asked which one
    slot_models: list[int]  # per slot: the model in it, or -1
    legal: list[bool]  # per action: the slots; in Swap-v0 then the models, then wait
    last_use_us: list[int]  # per model: last arrival or finish; its load end if there was none, 0 if it never came
    simulation: Simulation  # all that asks: for tests of what a policy is shown


Policy = Callable[[Question], int]
TraceRow = tuple[int, str, int, int]  # time_us, kind, subject (request or model), accelerator or -1


@dataclass
class ReferenceRun:
    """What a run leaves behind; per request -1 = it never happened, per task in the order of `TASKS`."""

    arrival_us: list[int]  # per request
    first_token_us: list[int]
    finish_us: list[int]
    refused: list[bool]
    waiting_us: list[int]  # per task: request-microseconds waiting for the first token, until the end
    system_us: list[int]  # per task: request-microseconds in the system, until the end
    slo_missed: list[int]  # per task
    busy_us: list[int]  # per accelerator: time with an admitted request
    channel_us: list[int]  # per accelerator: time in which a swap or lone unload owns the channel
    model_loads: list[int]  # per model: loads ended
    evictions: int = 0  # unloads started, lone ones too
    loads: int = 0  # loads started
    load_us_total: int = 0  # of loads started
    loaded_bytes: int = 0  # weights of loads started
    regret_loads: int = 0  # loads started within a minute of the end of the model's last unload
    decisions: int = 0  # questions asked
    forced_evictions: int = 0  # victims chosen without a question
    drains: int = 0  # victims that were not idle when they were chosen
    keep_alive_evictions: int = 0  # lone unloads started
    cold_requests: int = 0  # arrivals, not refused, whose model was not resident
    prefix_tokens_lost: int = 0  # shared prompt tokens computed again after an eviction
    memory_byte_us: int = 0  # bytes in use, residuals included, integrated over time
    waits: int = 0  # questions answered with wait
    prefetches: int = (
        0  # loads of models without waiting requests, counted with the first victim or the start of the load
    )
    invalid_actions: int = 0  # answers that were not legal
    truncated: bool = False
    end_us: int = 0
    asked_us: list[int] = field(default_factory=list)  # per question
    victim_reload_us: list[int] = field(default_factory=list)  # per victim, when chosen: `Simulation.reload_us`
    trace: list[TraceRow] = field(default_factory=list)


@dataclass
class Model:
    """A model, its queue and, where it is resident, its engine."""

    index: int
    pinned: bool
    asleep_on: int  # accelerator that holds its residual, or NONE
    state: str = "absent"  # absent, planned, loading, resident, draining, unloading
    accelerator: int = NONE  # where it is: from load start to unload end
    reserved_on: int = NONE  # where it has taken memory while it is planned
    slot: int = NONE
    waiting: list[int] = field(default_factory=list)  # requests, first come first
    admitted: list[int] = field(default_factory=list)
    prefills: list[int] = field(default_factory=list)  # admitted, prefill not begun
    prefilling: int = NONE  # the request whose prefill is in progress ...
    prefill_ns_per_round: int = 0  # ... and what it adds to a round
    decoding: list[int] = field(default_factory=list)
    targets: dict[int, int] = field(default_factory=dict)  # request -> value of the clock at its next token end
    cached_tokens: dict[int, int] = field(default_factory=dict)  # request -> prompt tokens found in the prefix cache
    sessions: set[int] = field(default_factory=set)  # admitted since the model's last load
    sessions_ever: set[int] = field(default_factory=set)  # admitted at any time
    anchor_us: int = 0
    anchor_rounds: int = 0  # value of the clock at anchor_us
    round_length_ns: int = 0  # 0 = not busy
    used: bool = False  # a request has asked for it
    last_use_us: int = 0
    idle_since_us: int = 0  # last finish or load end
    pending_since_us: int = 0
    evicted_us: int | None = None  # end of its last unload

    @property
    def idle(self) -> bool:
        return self.state == "resident" and not self.admitted and not self.waiting

    @property
    def pending(self) -> bool:
        return self.state == "absent" and bool(self.waiting)


@dataclass
class _Channel:
    """The swap channel of an accelerator: at most one swap or one lone unload at a time."""

    target: int = NONE  # the model planned or loading
    victims: list[int] = field(default_factory=list)  # chosen, not yet gone; first chosen first
    all_chosen: bool = False
    unloading: int = NONE
    wakes: bool = False  # the target's memory has been taken, its own residual with it
    ends_us: int = 0  # of the unload or load in progress
    tier: int = NONE  # of the load in progress

    @property
    def idle(self) -> bool:
        return self.target == NONE and self.unloading == NONE


class _TooManyDecisions(Exception):
    """One more question than `max_decisions` would be asked."""


def simulate(
    tables: FleetTables,
    workload: Workload,
    policy: Policy,
    *,
    keep_alive_us: Sequence[int | None] | None = None,
    max_resident: int | None = None,
    patience_us: int | None = None,
) -> ReferenceRun:
    """Runs one episode of Eviction-v0 or Swap-v0, as the tables say.

    Args:
        tables: the fleet, valid.
        workload: the requests, valid.
        policy: picks an action; an illegal one is replaced by the legal action of lowest index.
        keep_alive_us: (M,) idle time after which a model is evicted unasked, None = never.
        max_resident: limit on models per accelerator, None = no limit.
        patience_us: Swap-v0 asks again when a model has been pending for so long, None = never.

    Raises:
        RuntimeError: requests are left, but nothing will ever happen (rules that no placement can satisfy).
    """
    return Simulation(tables, workload, policy, keep_alive_us, max_resident, patience_us).run()


def slots_per_accelerator(tables: FleetTables) -> list[int]:
    """(A,) the most models that can be on each accelerator together (3): the pinned ones, then the smallest needs."""
    slots = []
    for accelerator, memory in enumerate(tables.memory_bytes.tolist()):
        models = range(tables.num_models)
        pinned = [int(tables.need_bytes[m]) for m in models if tables.pinned_on[m] == accelerator]
        others = sorted(int(tables.need_bytes[m]) for m in models if tables.pinned_on[m] == NONE)
        needs = pinned + others
        fitting = [n for n in range(len(needs) + 1) if sum(needs[:n]) <= memory or tables.unlimited_memory]
        slots.append(max(fitting))
    return slots


class Simulation:
    """The state of a run: who is where, who waits, what the clocks show."""

    def __init__(
        self,
        tables: FleetTables,
        workload: Workload,
        policy: Policy,
        keep_alive_us: Sequence[int | None] | None,
        max_resident: int | None,
        patience_us: int | None,
    ) -> None:
        self.tables, self.workload, self.policy = tables, workload, policy
        self.asks_which = tables.protocol == "swap"  # model to load (12)
        self.keep_alive_us = list(keep_alive_us) if keep_alive_us is not None else [None] * tables.num_models
        self.max_resident = max_resident
        # When a pending model is looked at anew, though nothing has happened (5.4, 12.6).
        self.patience_us = patience_us if self.asks_which else tables.drain_after_us
        self.news = True  # something has happened since the policy last said wait (12.2)
        if tables.unlimited_memory:  # nothing is ever evicted (7)
            self.keep_alive_us, self.max_resident = [None] * tables.num_models, None
        self.now = -1
        # Requests: plain lists of Python integers.
        self.model_of = [int(model) for model in workload.model]
        self.task_of = [int(task) for task in workload.task]
        self.context = [int(tokens) for tokens in workload.context_tokens]
        self.new = [int(tokens) for tokens in workload.new_tokens]
        self.output = [int(tokens) for tokens in workload.output_tokens]
        self.session_of = [int(session) for session in workload.session]
        requests = range(len(workload))
        self.arrivals = {r: int(workload.arrival_us[r]) for r in requests if workload.after[r] == NONE}  # to come
        self.result = ReferenceRun(
            arrival_us=[-1 for _ in requests],
            first_token_us=[-1 for _ in requests],
            finish_us=[-1 for _ in requests],
            refused=[False for _ in requests],
            waiting_us=[0 for _ in TASKS],
            system_us=[0 for _ in TASKS],
            slo_missed=[0 for _ in TASKS],
            busy_us=[0] * tables.num_accelerators,
            channel_us=[0] * tables.num_accelerators,
            model_loads=[0] * tables.num_models,
        )
        # Models, channels, slots, host cache.
        self.models = [
            Model(m, pinned=bool(tables.pinned_on[m] != NONE), asleep_on=int(tables.asleep_on[m]))
            for m in range(tables.num_models)
        ]
        self.channels = [_Channel() for _ in range(tables.num_accelerators)]
        slots = slots_per_accelerator(tables)
        self.slot_accelerator = [accelerator for accelerator, count in enumerate(slots) for _ in range(count)]
        self.slot_accelerator += [NONE] * (tables.max_slots - len(self.slot_accelerator))
        self.slot_models = [NONE] * len(self.slot_accelerator)
        self.host_cache = [m for m in range(tables.num_models) if tables.host_cached[m]]  # least recent first
        for places in (tables.pinned_on, tables.resident_on):
            for model in self.models:
                if model.state == "absent" and places[model.index] != NONE:
                    self._take_slot(model, int(places[model.index]))
                    model.state = "resident"

    # ---- the run (1) ----

    def run(self) -> ReferenceRun:
        result = self.result
        try:
            while self._unfinished():
                event = min(self._events(), default=None)
                if event is None:
                    raise RuntimeError(f"at {self.now} us requests are left, but no event is")
                self._let_time_pass(event[0])
                while event is not None and event[0] == self.now:
                    self._handle(event[1], event[2])
                    event = min(self._events(), default=None)
                if self._unfinished():
                    self.news |= self.now in self._timers_us()
                    self._start_lone_unloads()
                    if self.asks_which:
                        reference_swap.place(self)
                    else:
                        self._place_pending_models()
        except _TooManyDecisions:
            result.truncated = True
        result.end_us = self.now
        return result

    def _unfinished(self) -> bool:
        result = self.result
        return any(finish < 0 and not refused for finish, refused in zip(result.finish_us, result.refused, strict=True))

    def _let_time_pass(self, until_us: int) -> None:
        """Moves the clock and charges all requests that wait meanwhile (6)."""
        for r, task in enumerate(self.task_of):
            if self.result.arrival_us[r] >= 0 and not self.result.refused[r]:
                if self.result.first_token_us[r] < 0:
                    self.result.waiting_us[task] += until_us - self.now
                if self.result.finish_us[r] < 0:
                    self.result.system_us[task] += until_us - self.now
        passed_us = until_us - max(self.now, 0)
        for accelerator, channel in enumerate(self.channels):
            busy = any(model.admitted for model in self.models if model.accelerator == accelerator)
            self.result.busy_us[accelerator] += passed_us * busy
            self.result.channel_us[accelerator] += passed_us * (not channel.idle)
            in_use = int(self.tables.memory_bytes[accelerator]) - self.free_bytes(accelerator)
            self.result.memory_byte_us += passed_us * in_use
        self.now = until_us

    def _events(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Everything that is to come, as (time, priority, key); timers of this instant and before are gone."""
        for model in self.models:
            for r, target in model.targets.items():
                yield self._due_us(model, target), TOKEN_END, (model.accelerator, model.index, target, r)
        for timer_us in [0, *self._timers_us()]:  # time 0 is an instant, though no request may arrive then (1)
            if timer_us > self.now:
                yield timer_us, TIMER, ()
        for accelerator, channel in enumerate(self.channels):
            if channel.unloading != NONE:
                yield channel.ends_us, UNLOAD_END, (accelerator,)
            elif channel.tier != NONE:
                yield channel.ends_us, LOAD_END, (accelerator,)
        for r, arrival_us in self.arrivals.items():
            yield arrival_us, ARRIVAL, (r,)

    def _timers_us(self) -> Iterator[int]:
        """When a patience or a keep-alive runs out, past ones too (4.5, 5.4, 12.6)."""
        for model in self.models:
            if model.pending and self.patience_us is not None:
                yield model.pending_since_us + self.patience_us
            due_us = self._keep_alive_due_us(model)
            if due_us is not None:
                yield due_us

    def _handle(self, priority: int, key: tuple[int, ...]) -> None:
        if priority == TOKEN_END:
            self._end_of_tokens(self.models[key[1]], key[3])
        elif priority == UNLOAD_END:
            self._end_unload(key[0])
            self._advance_swap(key[0])
        elif priority == LOAD_END:
            self._end_load(key[0])
        elif priority == ARRIVAL:
            self._arrive(key[0])
        self._settle_clocks()

    def _note(self, kind: str, subject: int, accelerator: int) -> None:
        self.result.trace.append((self.now, kind, subject, accelerator))

    # ---- serving (2) ----

    def _arrive(self, r: int) -> None:
        model = self.models[self.model_of[r]]
        del self.arrivals[r]
        self.result.arrival_us[r] = self.now
        self._note("ARRIVAL", r, model.accelerator)
        if self.context[r] + self.output[r] > self.tables.kv_tokens[model.index]:
            self.result.refused[r] = True
            self._note("REFUSED", r, model.accelerator)
            self._schedule_followers(r)
            return
        model.used, model.last_use_us = True, self.now
        self.result.cold_requests += model.state != "resident"
        model.waiting.append(r)
        if model.state == "absent":
            self.news = True
            if len(model.waiting) == 1:
                model.pending_since_us = self.now
        self._admit(model)

    def _admit(self, model: Model) -> None:
        """Admits from the head of the queue as long as seats and KV room allow (2.2).

        Then begins the next prefill; also that of a draining model, which admits none, but finishes what it admitted.
        """
        while model.state == "resident" and model.waiting:
            r = model.waiting[0]
            kv_used = sum(self.context[q] + self.output[q] for q in model.admitted)
            seat = len(model.admitted) < self.tables.max_num_seqs[model.index]
            room = kv_used + self.context[r] + self.output[r] <= self.tables.kv_tokens[model.index]
            if not (seat and room):
                break
            model.waiting.remove(r)
            model.admitted.append(r)
            model.prefills.append(r)
            session, shared = self.session_of[r], self.context[r] - self.new[r]
            model.cached_tokens[r] = shared if session in model.sessions else 0
            if session in model.sessions_ever and session not in model.sessions:
                self.result.prefix_tokens_lost += shared
            model.sessions.add(session)
            model.sessions_ever.add(session)
            self._note("ADMITTED", r, model.accelerator)
        if model.prefilling == NONE and model.prefills:
            self._begin_prefill(model, model.prefills.pop(0))

    def _begin_prefill(self, model: Model, r: int) -> None:
        """(2.4) `rounds` chunks, over which the work is spread evenly."""
        where = model.accelerator, model.index
        context, cached = self.context[r], model.cached_tokens[r]
        tokens = context - cached
        rounds = -(-tokens // int(self.tables.chunk_tokens[model.index]))
        work_ns = int(self.tables.prefill_ns[where]) * tokens
        work_ns += int(self.tables.attention_ps[where]) * (context**2 - cached**2) // 2000
        work_ns += int(self.tables.request_ns[where])
        start = self.clock(model)
        model.prefilling = r
        if self.tables.whole_rounds:  # the clock rounded up; the work is spread over all that is left until the end
            model.targets[r] = (-(-start // ROUND) + rounds) * ROUND
            model.prefill_ns_per_round = -(-work_ns * ROUND // (model.targets[r] - start))
        else:
            model.targets[r] = start + rounds * ROUND
            model.prefill_ns_per_round = work_ns // rounds

    def _end_of_tokens(self, model: Model, r: int) -> None:
        """The end of a prefill is the first token (2.5); the end of decoding is the finish (2.6)."""
        target = model.targets.pop(r)
        if self.tables.whole_rounds:
            model.anchor_us, model.anchor_rounds = self.now, target
        if r == model.prefilling:
            model.prefilling, model.prefill_ns_per_round = NONE, 0
            self.result.first_token_us[r] = self.now
            self._note("FIRST_TOKEN", r, model.accelerator)
            self._judge(r, on_e2e=False)
            if self.output[r] == 1:
                self._finish(model, r)
            else:
                model.decoding.append(r)
                model.targets[r] = self.clock(model) + (self.output[r] - 1) * ROUND
        else:
            model.decoding.remove(r)
            self._finish(model, r)
        self._admit(model)
        self.news |= model.idle
        self._advance_swap(model.accelerator)

    def _finish(self, model: Model, r: int) -> None:
        model.admitted.remove(r)
        model.last_use_us = model.idle_since_us = self.now
        self.result.finish_us[r] = self.now
        self._note("FINISH", r, model.accelerator)
        self._judge(r, on_e2e=True)
        self._schedule_followers(r)

    def _schedule_followers(self, r: int) -> None:
        for follower, predecessor in enumerate(self.workload.after.tolist()):
            if predecessor == r:
                self.arrivals[follower] = self.now + int(self.workload.think_us[follower])

    def _judge(self, r: int, on_e2e: bool) -> None:
        """Counts a missed SLO (6)."""
        task, cost = self.task_of[r], self.tables.cost
        if bool(cost.slo_on_e2e[task]) == on_e2e and self.now - self.result.arrival_us[r] > cost.slo_us[task]:
            self.result.slo_missed[task] += 1

    # ---- clocks (2.7, 2.8) ----

    def _round_ns(self, model: Model) -> int:
        where = model.accelerator, model.index
        tokens_twice = sum(2 * self.context[r] + self.output[r] for r in model.decoding)
        batch_ns = self.tables.batch_ns[where].tolist()
        known = min(len(model.decoding), len(batch_ns) - 1)
        round_ns = int(self.tables.round_ns[where]) + batch_ns[known]
        round_ns += (len(model.decoding) - known) * int(self.tables.decode_ns[where])
        round_ns += int(self.tables.kv_ps[where]) * tokens_twice // 2000
        return max(round_ns + model.prefill_ns_per_round, MIN_ROUND_NS)

    def clock(self, model: Model) -> int:
        """V(now); an engine that was not busy before this event counts from 0."""
        if model.round_length_ns == 0:
            return 0
        return model.anchor_rounds + (self.now - model.anchor_us) * 1000 * ROUND // model.round_length_ns

    def _due_us(self, model: Model, target: int) -> int:
        ahead_us = -(-(target - model.anchor_rounds) * model.round_length_ns // (1000 * ROUND))  # rounded up
        return model.anchor_us + max(0, ahead_us)

    def _share(self, accelerator: int, busy: int) -> int:
        """How many thousandths of its time alone a round lasts there."""
        loads = self.channels[accelerator].tier != NONE
        return busy * (int(self.tables.load_slowdown[accelerator]) if loads else 1000)

    def _settle_clocks(self) -> None:
        """Moves the anchors of the engines whose round length has changed: by this event, by a load that starts."""
        for model in self.models:
            busy = [other for other in self.models if other.accelerator == model.accelerator and other.admitted]
            length_ns = self._share(model.accelerator, len(busy)) * self._round_ns(model) // 1000 if busy else 0
            length_ns = length_ns if model.admitted else 0
            if length_ns != model.round_length_ns:
                model.anchor_us, model.anchor_rounds = self.now, self.clock(model)
                model.round_length_ns = length_ns

    # ---- memory and slots (3) ----

    def free_bytes(self, accelerator: int) -> int:
        here = [model for model in self.models if accelerator in (model.accelerator, model.reserved_on)]
        needs = sum(int(self.tables.need_bytes[model.index]) for model in here)
        residuals = sum(int(self.tables.residual_bytes[m.index]) for m in self.models if m.asleep_on == accelerator)
        return int(self.tables.memory_bytes[accelerator]) - needs - residuals

    def left_over_bytes(self, accelerator: int, target: Model, victims: Sequence[Model] = ()) -> int:
        """What would be free here once the victims had left and the target had come; below 0 = it does not fit."""
        need, residual = self.tables.need_bytes, self.tables.residual_bytes
        own_residual = int(residual[target.index]) if target.asleep_on == accelerator else 0
        freed = sum(int(need[victim.index] - residual[victim.index]) for victim in victims)
        return self.free_bytes(accelerator) + own_residual + freed - int(need[target.index])

    def suffices(self, accelerator: int, target: Model, victims: Sequence[Model] = ()) -> bool:
        """Whether the target may come here once the victims have left: memory and `max_resident` (4.7)."""
        if self.left_over_bytes(accelerator, target, victims) < 0:
            return False
        return self.max_resident is None or self._count(accelerator) + 1 - len(victims) <= self.max_resident

    def _count(self, accelerator: int) -> int:
        return sum(model.accelerator == accelerator for model in self.models)

    def _take_memory(self, model: Model, accelerator: int) -> None:
        """A residual becomes part of the need; elsewhere it is given up, which may be what another model waits for."""
        asleep_on = model.asleep_on
        self.channels[accelerator].wakes = asleep_on == accelerator
        model.reserved_on, model.asleep_on = accelerator, NONE
        if asleep_on not in (NONE, accelerator):
            self._take_free_memory(asleep_on)

    def _take_free_memory(self, accelerator: int) -> None:
        """A planned model takes its memory as soon as its victims are chosen and there is enough."""
        channel = self.channels[accelerator]
        if channel.all_chosen:
            target = self.models[channel.target]
            planned = target.state == "planned" and target.reserved_on == NONE
            if planned and self.left_over_bytes(accelerator, target) >= 0:
                self._take_memory(target, accelerator)

    def _take_slot(self, model: Model, accelerator: int) -> None:
        """The lowest free one."""
        free = [
            s for s, where in enumerate(self.slot_accelerator) if where == accelerator and self.slot_models[s] == NONE
        ]
        model.accelerator, model.reserved_on, model.slot = accelerator, NONE, free[0]
        self.slot_models[model.slot] = model.index

    # ---- swaps (4) ----

    def _advance_swap(self, accelerator: int) -> None:
        """Unloads the victims that run nothing, first chosen first; starts the load when the last of all has left."""
        channel = self.channels[accelerator]
        self._take_free_memory(accelerator)
        while channel.unloading == NONE:
            ready = [m for m in channel.victims if not self.models[m].admitted]
            if not ready:
                break
            self._start_unload(self.models[ready[0]])
            self._take_free_memory(accelerator)
        if channel.all_chosen and not channel.victims and self.models[channel.target].state == "planned":
            self._start_load(self.models[channel.target], accelerator)

    def _start_unload(self, model: Model) -> None:
        channel = self.channels[model.accelerator]
        model.state = "unloading"
        channel.unloading = model.index
        channel.ends_us = self.now + int(self.tables.unload_us[model.accelerator, model.index])
        self.result.evictions += 1
        self._note("UNLOAD_START", model.index, model.accelerator)
        if channel.ends_us == self.now:
            self._end_unload(model.accelerator)

    def _end_unload(self, accelerator: int) -> None:
        channel = self.channels[accelerator]
        model = self.models[channel.unloading]
        channel.unloading = NONE
        self.news = True
        if model.index in channel.victims:  # not so for a lone unload
            channel.victims.remove(model.index)
        self._note("UNLOAD_DONE", model.index, accelerator)
        self.slot_models[model.slot] = NONE
        model.state, model.accelerator, model.slot, model.asleep_on = "absent", NONE, NONE, accelerator
        model.pending_since_us = model.evicted_us = self.now
        if self.tables.unload_copies:
            self._insert_into_host_cache(model.index)
        else:
            self._renew_in_host_cache(model.index)

    def _start_load(self, model: Model, accelerator: int) -> None:
        self._settle_clocks()
        channel = self.channels[accelerator]
        channel.target = model.index
        if model.reserved_on == NONE:
            self._take_memory(model, accelerator)
        wakes = channel.wakes or self.tables.residual_bytes[model.index] == 0
        channel.tier = HOST if model.index in self.host_cache and wakes else DISK
        load_us = int(self.tables.load_us[accelerator, model.index, channel.tier])
        channel.ends_us = self.now + load_us
        model.state = "loading"
        self._take_slot(model, accelerator)
        self._renew_in_host_cache(model.index)
        self.result.loads += 1
        self.result.load_us_total += load_us
        self.result.loaded_bytes += int(self.tables.weights_bytes[model.index])
        if model.evicted_us is not None and self.now - model.evicted_us < REGRET_US:
            self.result.regret_loads += 1
        self._note("LOAD_START", model.index, accelerator)
        self._settle_clocks()

    def tier(self, model: Model, accelerator: int) -> int:
        """(4.4) Where an absent model would be loaded from now."""
        wakes = self.tables.residual_bytes[model.index] == 0 or model.asleep_on == accelerator
        return HOST if model.index in self.host_cache and wakes else DISK

    def reload_us(self, model: Model) -> int:
        """How long a model on an accelerator would take to come back there, were it evicted now.

        Its tier is that in which the eviction would leave it, if no other entry were in the way (4.6).
        """
        copied = self.tables.unload_copies and self.tables.weights_bytes[model.index] <= self.tables.host_cache_bytes
        tier = HOST if model.index in self.host_cache or copied else DISK
        return int(self.tables.load_us[model.accelerator, model.index, tier])

    def _end_load(self, accelerator: int) -> None:
        tier = self.channels[accelerator].tier
        model = self.models[self.channels[accelerator].target]
        self.channels[accelerator] = _Channel()
        model.state = "resident"
        self.news = True
        model.idle_since_us = self.now
        if not model.used:
            model.last_use_us = self.now
        model.sessions.clear()
        self.result.model_loads[model.index] += 1
        if tier == DISK:
            self._insert_into_host_cache(model.index)
        self._note("LOAD_DONE", model.index, accelerator)
        self._admit(model)

    def _keep_alive_due_us(self, model: Model) -> int | None:
        keep_alive_us = self.keep_alive_us[model.index]
        if keep_alive_us is None or model.pinned or not model.idle:
            return None
        return model.idle_since_us + int(keep_alive_us)

    def _start_lone_unloads(self) -> None:
        """(4.5) Evicts models whose keep-alive is over, on idle channels."""
        for accelerator, channel in enumerate(self.channels):
            while channel.idle:
                due = []
                for model in self.models:
                    due_us = self._keep_alive_due_us(model)
                    if model.accelerator == accelerator and due_us is not None and due_us <= self.now:
                        due.append((due_us, model.index))
                if not due:
                    break
                self.result.keep_alive_evictions += 1
                self._start_unload(self.models[min(due)[1]])

    def _renew_in_host_cache(self, m: int) -> None:
        if m in self.host_cache:
            self.host_cache.remove(m)
            self.host_cache.append(m)

    def _insert_into_host_cache(self, m: int) -> None:
        """(4.6) Drops the least recent entries that may go; where all of those would not do, changes nothing."""
        if m in self.host_cache:
            return self._renew_in_host_cache(m)
        weights = self.tables.weights_bytes.tolist()
        coming = [q for q in self.host_cache if self.models[q].state in ("planned", "loading")]
        if sum(weights[q] for q in coming) + weights[m] > self.tables.host_cache_bytes:
            return
        while sum(weights[q] for q in self.host_cache) + weights[m] > self.tables.host_cache_bytes:
            self.host_cache.remove(next(q for q in self.host_cache if q not in coming))
        self.host_cache.append(m)

    # ---- Eviction-v0 (5), no swapping (7) ----

    def _place_pending_models(self) -> None:
        while any(self._place(model) for model in self.pending_models()):
            pass  # after each placement the pending models are looked at anew

    def pending_models(self) -> list[Model]:
        pending = [model for model in self.models if model.pending]
        return sorted(pending, key=lambda model: (self.result.arrival_us[model.waiting[0]], model.waiting[0]))

    def _place(self, target: Model) -> bool:
        """Starts a load or a swap for the target, if that is possible now."""
        idle = self.idle_channels()
        if self.tables.unlimited_memory:
            if idle:
                best = min(idle, key=lambda a: (-self.left_over_bytes(a, target), self._count(a), a))
                self._start_load(target, best)
            return bool(idle)
        if self.load_where_it_fits(target):
            return True
        legal = self.victims(target, idle, busy_too=False)
        if not legal and self.now - target.pending_since_us >= self.tables.drain_after_us:
            legal = self.victims(target, idle, busy_too=True)
        if legal:
            self.swap(target, legal)
        return bool(legal)

    def idle_channels(self) -> list[int]:
        return [accelerator for accelerator, channel in enumerate(self.channels) if channel.idle]

    def load_where_it_fits(self, target: Model) -> bool:
        """(5.1.1) Starts a load for which no model has to go, if there is a place for it."""
        fitting = [accelerator for accelerator in self.idle_channels() if self.suffices(accelerator, target)]
        if fitting:
            self.result.prefetches += not target.waiting
            sign = -1 if self.tables.placement == "spread" else 1
            self._start_load(target, min(fitting, key=lambda a: (sign * self.left_over_bytes(a, target), a)))
        return bool(fitting)

    def victims(self, target: Model, accelerators: Sequence[int], busy_too: bool) -> list[Model]:
        """All who may be evicted for the target, on the accelerators where all of them together would suffice."""
        legal = []
        for accelerator in accelerators:
            here = self.evictable(accelerator, busy_too)
            if self.suffices(accelerator, target, here):
                legal += here
        return legal

    def evictable(self, accelerator: int, busy_too: bool) -> list[Model]:
        residents = [m for m in self.models if m.accelerator == accelerator and m.state == "resident" and not m.pinned]
        return [model for model in residents if busy_too or model.idle]

    def swap(self, target: Model, legal: list[Model]) -> None:
        """(5.2, 5.3, 12.4) The first victim fixes the accelerator; more are chosen at once, until they suffice."""
        victim = self._choose(target, legal)
        accelerator = victim.accelerator
        channel = self.channels[accelerator]
        channel.target = target.index
        target.state = "planned"
        self.result.prefetches += not target.waiting
        while True:
            self.result.drains += not victim.idle
            self.result.victim_reload_us.append(self.reload_us(victim))
            victim.state = "draining"
            channel.victims.append(victim.index)
            self._note("VICTIM", victim.index, accelerator)
            self._advance_swap(accelerator)  # an idle victim starts to leave before the next is chosen
            chosen = [self.models[m] for m in channel.victims]
            if self.suffices(accelerator, target, chosen):
                break
            idle = self.evictable(accelerator, busy_too=False)
            idle_first = not self.asks_which and self.suffices(accelerator, target, chosen + idle)
            victim = self._choose(target, idle if idle_first else self.evictable(accelerator, busy_too=True))
        channel.all_chosen = True
        self._advance_swap(accelerator)

    def _choose(self, target: Model, legal: list[Model]) -> Model:
        """The victim; if only one model may go, the policy is not asked."""
        if len(legal) == 1:
            self.result.forced_evictions += 1
            return legal[0]
        slot = self.ask(target.index, {model.slot for model in legal})
        return self.models[self.slot_models[slot]]

    def ask(self, target: int, legal: set[int]) -> int:
        """One question to the policy; target NONE = which model to load."""
        if self.result.decisions == self.tables.max_decisions:
            raise _TooManyDecisions
        actions = len(self.slot_models) + (len(self.models) + 1 if self.asks_which else 0)
        question = Question(
            now_us=self.now,
            decision=self.result.decisions,
            target=target,
            slot_models=self.slot_models[:],
            legal=[action in legal for action in range(actions)],
            last_use_us=[model.last_use_us for model in self.models],
            simulation=self,
        )
        action = self.policy(question)
        self.result.decisions += 1
        self.result.asked_us.append(self.now)
        if action not in legal:
            self.result.invalid_actions += 1
            action = min(legal)
        return action

"""Claims about generated workloads: what people do in them, and how near they come to the published figures."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cace_env.config import ConfigError, dump, load, parse
from cace_env.generator import ServedModel, WorkloadConfig, generate
from cace_env.generator.config import (
    Agent,
    Bursts,
    Completion,
    Conversation,
    DayCurve,
    Quantiles,
    Routing,
    SubAgent,
    TaskShares,
)
from cace_env.generator.quantiles import quantile_table
from cace_env.tables import TASKS
from cace_env.workload import COLUMNS, Workload
from experiments.yardsticks import workload_statistics as statistics

ROOT = Path(__file__).resolve().parents[2]
COMPLETION, CHAT, REASONING, AGENT = range(4)

MODELS = (
    ServedModel("tiny", ("completion",), weights_gb=1, kv_tokens=8_192),
    ServedModel("small", ("completion", "chat"), weights_gb=8),
    ServedModel("medium", ("chat", "agent"), weights_gb=15),
    ServedModel("large", ("chat", "agent", "reasoning"), weights_gb=60, prefill_us_per_token=400.0),
    ServedModel("thinker", ("reasoning",), weights_gb=30, kv_tokens=20_000),
)
ONLY_AGENTS = TaskShares(completion=0.0, chat=0.0, reasoning=0.0, agent=1.0)


def columns(workload: Workload, rows: np.ndarray | slice = slice(None)) -> dict[str, list[int]]:
    return {name: getattr(workload, name)[rows].tolist() for name in COLUMNS}


def nominal_service_us(workload: Workload, models: tuple[ServedModel, ...]) -> np.ndarray:
    prefill = np.array([model.prefill_us_per_token for model in models])[workload.model]
    decode = np.array([model.decode_us_per_token for model in models])[workload.model]
    return workload.new_tokens * prefill + workload.output_tokens * decode


# --- seeds and streams ------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_workloads_and_other_seeds_others():
    config = WorkloadConfig(requests=500)
    assert columns(generate(config, MODELS, 7)) == columns(generate(config, MODELS, 7))
    assert columns(generate(config, MODELS, 7)) != columns(generate(config, MODELS, 8))


def test_shares_are_the_same_on_every_version_of_python():
    shares = TaskShares(completion=0.1, chat=0.1, reasoning=0.7, agent=0.1)
    assert shares.normalised()[0] == 0.1 / 0.9999999999999999  # their sum is 1.0 by sum() from Python 3.12 on


def test_a_process_without_numba_generates_the_same():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.generator.test_generator import MODELS, columns\n"
        "from cace_env.generator import WorkloadConfig, generate\n"
        "print(columns(generate(WorkloadConfig(requests=300), MODELS, 3)))\n"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", script, str(ROOT)]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(columns(generate(WorkloadConfig(requests=300), MODELS, 3)))


@pytest.mark.parametrize(
    "change",
    [
        {"chat": Conversation(session_requests=6.0)},
        {"agent": Agent(new_tokens=Quantiles(p10=1, p50=2, p90=3, p99=4))},
        {"agent": Agent(subagent=SubAgent(chance=0.5))},
    ],
)
def test_what_changes_in_another_task_leaves_completions_as_they_were(change):
    quiet = WorkloadConfig()
    before, after = (generate(config, MODELS, 5) for config in (quiet, quiet.model_copy(update=change)))
    tasks = [np.flatnonzero(workload.task == COMPLETION) for workload in (before, after)]
    rows = min(len(tasks[0]), len(tasks[1]))
    assert rows > 500
    for name in ("arrival_us", "think_us", "model", "context_tokens", "new_tokens", "output_tokens", "user"):
        assert (getattr(before, name)[tasks[0][:rows]] == getattr(after, name)[tasks[1][:rows]]).all(), name


def test_a_shorter_episode_is_not_a_different_company():
    short, long = (generate(WorkloadConfig(requests=n), MODELS, 2) for n in (1500, 2000))
    assert (short.user == long.user[:1500]).mean() > 0.99  # drift and deployments follow the length, people do not


# --- what every workload obeys ----------------------------------------------------------------------------------------

configs = st.builds(
    WorkloadConfig,
    requests=st.integers(1, 400),
    users=st.integers(1, 60),
    requests_per_user_hour=st.floats(0.01, 100.0),
    activity_spread=st.floats(0.0, 2.0),
    shares=st.builds(TaskShares, completion=st.floats(0.1, 1), chat=st.floats(0, 1), agent=st.floats(0, 1)),
    bursts=st.builds(Bursts, spread=st.floats(0.0, 3.0)),
    routing=st.builds(
        Routing,
        drift=st.floats(0.0, 0.45),
        new_models=st.integers(0, 5),
        stickiness=st.floats(0.0, 1.0),
        agent_switch=st.floats(0.0, 1.0),
    ),
    agent=st.builds(Agent, subagent=st.builds(SubAgent, chance=st.floats(0.0, 1.0))),
)


@pytest.mark.parametrize("share", [1e-9, 1e-300, 2e-311, 5e-324])
def test_a_task_that_is_hardly_asked_for_leaves_the_others_their_models(share: float):
    config = WorkloadConfig(requests=300, users=5, shares=TaskShares(completion=1.0, chat=share, agent=0.0))
    workload = generate(config, MODELS, 0)
    assert all(TASKS[task] in MODELS[model].tasks for task, model in zip(workload.task, workload.model, strict=True))


@settings(max_examples=60)
@given(config=configs, seed=st.integers(0, 2**63))
def test_every_workload_can_be_simulated(config: WorkloadConfig, seed: int):
    workload = generate(config, MODELS, seed)
    workload.validate()
    assert workload.model.max() < len(MODELS)
    assert len(workload) == config.requests
    assert (np.diff(workload.arrival_us) >= 0).all()
    for name, dtype in COLUMNS.items():
        assert getattr(workload, name).dtype == dtype
    longest = np.array([model.longest_request for model in MODELS])[workload.model]
    assert (workload.context_tokens + workload.output_tokens <= longest).all()
    for task, name in enumerate(TASKS):
        assert all(name in MODELS[model].tasks for model in np.unique(workload.model[workload.task == task]))
    # a request follows one of the same user, or none; it arrives the think time after that one's nominal finish
    rows = np.flatnonzero(workload.after >= 0)
    before = workload.after[rows]
    assert (workload.user[rows] == workload.user[before]).all()
    assert (workload.think_us[workload.after < 0] == 0).all()
    assert (workload.think_us[rows] >= 99_999).all()
    due = workload.arrival_us[before] + nominal_service_us(workload, MODELS)[before] + workload.think_us[rows]
    assert np.abs(workload.arrival_us[rows] - due).max(initial=0) <= 3


@settings(max_examples=30)
@given(config=configs, seed=st.integers(0, 2**32))
def test_tokens_are_new_unless_the_session_sent_them_to_that_model_before(config: WorkloadConfig, seed: int):
    workload = generate(config, MODELS, seed)
    last: dict[tuple[int, int], int] = {}
    for row in range(len(workload)):
        key = (int(workload.session[row]), int(workload.model[row]))
        cached = workload.context_tokens[row] - workload.new_tokens[row]
        assert cached <= last.get(key, 0)
        last[key] = int(workload.context_tokens[row])


def test_a_user_has_one_completion_in_flight():
    workload = generate(WorkloadConfig(), MODELS, 0)
    rows = np.flatnonzero(workload.task == COMPLETION)
    for user in np.unique(workload.user[rows]):
        chain = rows[workload.user[rows] == user]
        assert workload.after[chain].tolist() == [-1, *chain[:-1].tolist()]


def test_sessions_of_other_tasks_are_chains_that_start_at_their_own_time():
    workload = generate(WorkloadConfig(), MODELS, 0)
    for session in np.unique(workload.session[(workload.task == CHAT) | (workload.task == REASONING)]):
        chain = np.flatnonzero(workload.session == session)
        assert workload.after[chain].tolist() == [-1, *chain[:-1].tolist()]
        assert len({(workload.user[row], workload.task[row], workload.model[row]) for row in chain}) == 1


def test_a_chat_grows_from_turn_to_turn():
    workload = generate(WorkloadConfig(), MODELS, 1)
    rows = statistics.followers(workload)
    rows = rows[workload.task[rows] == CHAT]
    assert (workload.context_tokens[rows] > workload.context_tokens[workload.after[rows]]).all()


def test_an_agent_adds_to_its_context_until_it_is_compacted():
    config = WorkloadConfig(requests=5_000, shares=ONLY_AGENTS, routing=Routing(agent_switch=0.0))
    workload = generate(config, MODELS, 1)
    rows = statistics.followers(workload)
    before = workload.context_tokens[workload.after[rows]]
    grown = workload.context_tokens[rows] > before
    assert (workload.new_tokens[rows] == workload.context_tokens[rows] - before)[grown].all()
    assert 0.97 < grown.mean() < 1
    assert (workload.context_tokens[rows] < 0.5 * before)[~grown].all()


def test_sub_agents_use_a_smaller_model_in_a_session_of_their_own():
    config = WorkloadConfig(shares=ONLY_AGENTS, agent=Agent(subagent=SubAgent(chance=0.3)), requests_per_user_hour=5.0)
    workload = generate(config, MODELS, 4)
    rows = np.flatnonzero(workload.after >= 0)
    started = rows[workload.session[rows] != workload.session[workload.after[rows]]]
    assert len(started) > 50
    weights = np.array([model.weights_gb for model in MODELS])
    parents = workload.model[workload.after[started]]
    large = parents == 3
    assert (weights[workload.model[started]][large] < weights[parents][large]).all()
    assert (workload.model[started][~large] == parents[~large]).all()  # nothing smaller serves agents


def test_an_episode_of_a_million_requests_fits_in_150_mb():
    config = WorkloadConfig(requests=1_000_000, users=1_000)
    generate(config.model_copy(update={"requests": 10}), MODELS, 0)  # compile first
    tracemalloc.start()
    try:
        generate(config, MODELS, 0)
        assert tracemalloc.get_traced_memory()[1] < 150e6
    finally:
        tracemalloc.stop()


# --- knobs ------------------------------------------------------------------------------------------------------------


def hours(config: WorkloadConfig, seeds: range = range(10)) -> float:
    return float(np.mean([generate(config, MODELS, seed).arrival_us[-1] / 3.6e9 for seed in seeds]))


def test_twice_the_users_or_twice_the_rate_halve_the_time():
    flat = {"requests": 20_000, "day": DayCurve(peak_to_mean=1.0), "bursts": Bursts(spread=0.0)}
    once = hours(WorkloadConfig(users=40, requests_per_user_hour=20.0, **flat))
    assert once == pytest.approx(20_000 / 800, rel=0.1)
    assert hours(WorkloadConfig(users=80, requests_per_user_hour=20.0, **flat)) == pytest.approx(once / 2, rel=0.1)
    assert hours(WorkloadConfig(users=40, requests_per_user_hour=40.0, **flat)) == pytest.approx(once / 2, rel=0.1)


def test_tasks_come_in_the_shares_asked_for():
    shares = TaskShares(completion=2.0, chat=1.0, reasoning=0.5, agent=0.5)
    runs = [generate(WorkloadConfig(shares=shares, requests=20_000), MODELS, seed) for seed in range(10)]
    for task, share in enumerate(shares.normalised()):
        assert np.mean([(run.task == task).mean() for run in runs]) == pytest.approx(share, rel=0.12)


def test_wholly_sticky_users_keep_one_model_per_task_and_language():
    routing = Routing(stickiness=1.0, home_language=1.0, agent_switch=0.0, new_models=0)
    agent = Agent(subagent=SubAgent(chance=0.0))
    workload = generate(WorkloadConfig(routing=routing, agent=agent), MODELS, 0)
    pairs = {(user, task) for user, task in zip(workload.user, workload.task, strict=True)}
    triples = set(zip(workload.user, workload.task, workload.model, strict=True))
    assert len(triples) == len(pairs)


def test_a_new_model_is_asked_for_only_after_its_deployment_and_then_stays():
    models = tuple(ServedModel(f"m{i}", TASKS) for i in range(6))
    config = WorkloadConfig(requests=20_000, routing=Routing(new_models=1, drift=0.0, stickiness=0.0))
    for seed in range(5):
        workload = generate(config, models, seed)
        first = np.array([workload.arrival_us[workload.model == model].min() for model in range(6)])
        first = first / workload.arrival_us[-1]
        assert (first > 0.15).sum() == 1
        new = int(first.argmax())
        assert first[new] < 0.85
        after = workload.arrival_us > first[new] * workload.arrival_us[-1]
        assert (workload.model[after] == new).mean() > 0.02


def test_hints_decide_who_is_popular():
    models = tuple(ServedModel(f"m{i}", TASKS, popularity=float(i)) for i in range(5))
    config = WorkloadConfig(requests=50_000, users=500, routing=Routing(new_models=0, drift=0.0))
    counts = np.bincount(generate(config, models, 0).model)
    assert (np.diff(counts) > 0).all()


def test_equal_hints_give_every_seed_other_favourites():
    models = tuple(ServedModel(f"m{i}", TASKS) for i in range(8))
    favourites = {int(np.bincount(generate(WorkloadConfig(), models, seed).model).argmax()) for seed in range(20)}
    assert len(favourites) >= 4


def test_a_language_is_asked_only_of_models_that_speak_it():
    models = (ServedModel("general", TASKS), ServedModel("cobolist", TASKS, languages=("cobol",)))
    spoken = generate(WorkloadConfig(languages={"python": 1.0}), models, 0)
    assert (spoken.model == 0).all()
    both = generate(WorkloadConfig(languages={"python": 0.5, "cobol": 0.5}), models, 0)
    assert 0 < (both.model == 1).mean() < 0.6


def test_bursts_make_arrivals_burstier():
    calm, wild = (WorkloadConfig(bursts=Bursts(spread=spread)) for spread in (0.0, 2.5))
    cvs = [[statistics.gap_cv(generate(c, MODELS, seed).arrival_us) for seed in range(20)] for c in (calm, wild)]
    assert np.mean(cvs[1]) > 1.5 * np.mean(cvs[0])


def test_quantiles_come_out_as_put_in():
    table = quantile_table((0.8, 5.5, 38.0, 123.0))
    assert (np.diff(table) > 0).all()
    assert np.quantile(table, (0.1, 0.5, 0.9, 0.99)) == pytest.approx((0.8, 5.5, 38.0, 123.0), rel=0.02)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_task_that_nobody_serves_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"'agent' has a share of 0\.20.*shares\.agent: 0"):
        generate(WorkloadConfig(), MODELS[:2] + MODELS[4:], 0)
    with pytest.raises(ConfigError, match="in 'typescript'"):
        generate(WorkloadConfig(), (ServedModel("snake", TASKS, languages=("python",)),), 0)
    with pytest.raises(ConfigError, match="unknown task 'review'"):
        generate(WorkloadConfig(), (*MODELS, ServedModel("critic", ("review",))), 0)
    with pytest.raises(ConfigError, match="empty"):
        generate(WorkloadConfig(), (), 0)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="-1"):
        generate(WorkloadConfig(), MODELS, -1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"requests_per_user_hour": 400.0}, "one in flight"),
        ({"chat": {"gap_s": {"p10": 5.0, "p50": 4.0, "p90": 6.0, "p99": 7.0}}}, "must not decrease"),
        ({"shares": {"completion": 0.0, "chat": 0.0, "reasoning": 0.0, "agent": 0.0}}, "above 0"),
        ({"roles": {"idler": {"share": 1.0, "agent": 0.0}}}, "no role does any agent"),
        ({"languages": {"python": 0.0}}, r"languages\.python"),
        ({"day": {"peak_to_trough": 1.2}}, "above peak_to_mean"),
        ({"requests": 10_000_000, "users": 1, "requests_per_user_hour": 0.5}, "years"),
        ({"burst": {}}, "unknown key"),
    ],
)
def test_what_cannot_be_generated_is_refused_with_its_key(content, message):
    with pytest.raises(ConfigError, match=message):
        parse(WorkloadConfig, content, "workload.yaml")


def test_a_configuration_survives_yaml(tmp_path: Path):
    config = WorkloadConfig(users=7, completion=Completion(session_requests=3.0))
    path = tmp_path / "workload.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(WorkloadConfig, path) == config

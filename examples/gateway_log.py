"""A made-up log of a gateway: hours of a simulated company, as LiteLLM would have written them.

    python examples/gateway_log.py --out before.jsonl
    python examples/gateway_log.py --gpus 3 --day 2 --out after.jsonl

To try the way from a log to a recommendation and a pilot without a log of one's own (`docs/tutorials/platform.md`).
Eighty people share thirteen models on two L40S, or more. Requests are generated; times to the first and to the last
token are the simulator's under a policy. Names, texts and keys are invented. It says nothing about real traffic, and
nothing about LiteLLM but its columns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cace_env.cases import case_of
from cace_env.evaluation import run_episode
from cace_env.policies import contestant_of
from cace_env.scenarios import load_scenario, seeds

SCENARIO = "completion-heavy"  # with all the memory that its GPUs have
FIRST_DAY = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
FAILS = 97  # every so many requests fail
TEXT = "def refund(order):\n    key = 'sk-live-51HxSECRET'  # never reaches an imported log\n"


def rows(policy: str, gpus: int, day: int, requests: int) -> Iterator[dict[str, Any]]:
    """The requests of a day in the order of their arrival, as rows of LiteLLM_SpendLogs."""
    scenario = load_scenario(SCENARIO)
    workload = scenario.workload_config.model_dump(mode="json") | {"requests": requests}
    fleet = [{"gpu": "l40s", "count": gpus}]
    case = case_of(scenario.replace(fleet=fleet, pressure=None, workload=workload))
    seed = seeds("train", day)[-1]
    asked = case.workload(seed)
    simulator, _ = run_episode(contestant_of(policy), case, asked, seed)
    episode = simulator.episode()
    began = FIRST_DAY + timedelta(days=day - 1)

    def at(time_us: int) -> str:
        return (began + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")

    for r in episode.arrival_us.argsort(kind="stable").tolist():
        arrival, first, last = (
            int(times[r]) for times in (episode.arrival_us, episode.first_token_us, episode.finish_us)
        )
        if first < 0 or last < 0:  # refused
            continue
        failed = r % FAILS == 0
        context, output = int(asked.context_tokens[r]), int(asked.output_tokens[r])
        yield {
            "request_id": f"chatcmpl-{day}-{r}",
            "call_type": "acompletion",
            "api_key": f"hashed-{asked.user[r]}",
            "prompt_tokens": context,
            "completion_tokens": 0 if failed else output,
            "startTime": at(arrival),
            "completionStartTime": at(first),
            "endTime": at(last),
            "model": f"openai/{case.tables.model_names[asked.model[r]]}",
            "model_group": case.tables.model_names[asked.model[r]],
            "user": f"dev{asked.user[r]}@example.org",
            "session_id": f"session-{asked.session[r]}",
            "metadata": {
                "usage_object": {"prompt_tokens_details": {"cached_tokens": context - int(asked.new_tokens[r])}}
            },
            "messages": [{"role": "user", "content": TEXT}],
            "status": "failure" if failed else "success",
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the log; returns the number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="lru", help="that evicted on that day")
    parser.add_argument("--gpus", type=int, default=2, help="how many L40S there were")
    parser.add_argument("--day", type=int, default=1, help="1 is 2 March 2026; other days have other requests")
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--out", type=Path, default=Path("before.jsonl"))
    given = parser.parse_args(arguments)
    lines = [json.dumps(row) for row in rows(given.policy, given.gpus, given.day, given.requests)]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines):,} requests in {given.out}")
    return len(lines)


if __name__ == "__main__":
    main()

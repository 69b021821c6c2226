"""A trained SB3 model as a contestant: on the same requests as every built-in policy, in ten lines.

    python examples/sb3_contestant.py --model agent.zip --scenario default

What to take from it:

- `contestant(model)` is a policy with a method `act(observation, action_mask) -> action`: it sees what an agent sees in
  the environment of the scenario, and takes part wherever policies do: `cace_env.evaluate`, `experiments.compare
  --policy module:object`, `experiments.suite`, `experiments.submission`. Anything that can answer will do: SB3, torch,
  ONNX, a table; such a class is five lines.
- A model that knows no masks may want what is not legal, which stops the run with policy, seed and decision. With
  `evaluate(..., illegal="replace")` it is replaced, as the environment does, and counted beside the result.
- An `MlpPolicy` takes as many numbers as it was trained on, so it plays fleets of at most that size; smaller ones are
  shown in as many rows. A model with `"SlotPolicy"` plays any fleet: `cace_env.sb3.save_agent` makes an agent of it.
- SB3's zip holds pickled Python: load only files that you trust. Agents of this package are weights and JSON instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sb3_contrib import MaskablePPO

import cace_env
from cace_env.intervals import Gain
from cace_env.sb3 import contestant
from cace_env.scenarios import seeds


def main(arguments: Sequence[str] | None = None) -> Gain:
    """Runs the model and LRU on validation seeds, and prints what it saves."""
    parser = argparse.ArgumentParser(description="A saved MaskablePPO against LRU.")
    parser.add_argument(
        "--model", required=True, metavar="ZIP", help="a zip that MaskablePPO.save wrote; trusted files only"
    )
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--seeds", type=int, default=10, help="validation seeds")
    options = parser.parse_args(arguments)
    split = seeds("validation", options.seeds)
    agent = cace_env.evaluate(contestant(MaskablePPO.load(options.model, device="cpu")), options.scenario, split)
    lru = cace_env.evaluate("lru", options.scenario, split)
    gain = agent.gain_over(lru)
    print(
        f"{options.scenario}: cost saved against LRU {gain.percent:+.1f} % [{gain.low:+.1f}, {gain.high:+.1f}], "
        f"{agent.column('decision_us').mean():.0f} us per decision"
    )
    return gain


if __name__ == "__main__":
    main()

"""Your first agent: SB3's MaskablePPO learns whom to evict, and saves more than the hand-crafted CACE.

    python examples/sb3_quickstart.py

Half a minute on one core once everything has been compiled. It logs to W&B (offline, no account needed) and into
`runs/quickstart`: `metrics.csv`, the learning curve, and the agent as `best/`, which every comparison takes as
`agent:runs/quickstart`. The last lines compare on 100 test seeds, which training has never seen.
"""

import wandb
from sb3_contrib import MaskablePPO

from cace_env import evaluate
from cace_env.sb3 import EvaluationCallback, EvictionVecEnv, hyperparameters, plot_learning_curve

SCENARIO, DECISIONS, FOLDER = "default", 150_000, "runs/quickstart"

wandb.init(project="cace-env", mode="offline")  # mode="online" sends it to your account
env = EvictionVecEnv(scenario=SCENARIO, baseline="lru")  # 60 at once; a reward is what was saved against LRU
model = MaskablePPO("SlotPolicy", env, seed=0, device="cpu", **hyperparameters("maskable-ppo"))
model.learn(DECISIONS, callback=EvaluationCallback(every=10_000, folder=FOLDER, overwrite=True))
plot_learning_curve(FOLDER, f"{FOLDER}/learning_curve.png", title=f"MaskablePPO on {SCENARIO!r}")
wandb.finish()

lru = evaluate("lru", SCENARIO, "test")
for policy in (f"agent:{FOLDER}", "cace", "cace:tuned-eviction"):
    print(f"{policy:22} saves {evaluate(policy, SCENARIO, 'test').gain_over(lru)} of LRU's cost")

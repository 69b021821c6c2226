"""A log of decisions: who was evicted, between which candidates, and why; written by any run, read by anybody.

```python
from cace_env import evaluate
from cace_env.decision_log import DecisionLog, in_words, why

with DecisionLog("decisions", max_mb=100, keep_days=30) as log:
    evaluate("cace", "default", [2_000_000], decision_log=log)
print(in_words(why("decisions", "starcoder2-7b", "20min")))
```

Files need pyarrow: `pip install "cace-env[traces]"`. `python -m experiments.why FOLDER` answers from the terminal.
"""

from cace_env.decision_log.reader import Log, LoggedEpisode, moment, read_decisions, seconds_of, why
from cace_env.decision_log.record import Candidate, Decision
from cace_env.decision_log.recorder import Recorder, fingerprint_of, version_of
from cace_env.decision_log.words import in_words
from cace_env.decision_log.writer import DecisionLog

__all__ = [
    "Candidate",
    "Decision",
    "DecisionLog",
    "Log",
    "LoggedEpisode",
    "Recorder",
    "fingerprint_of",
    "in_words",
    "moment",
    "read_decisions",
    "seconds_of",
    "version_of",
    "why",
]

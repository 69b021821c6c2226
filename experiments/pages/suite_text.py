"""What the page of the suite says, whatever its numbers."""

from __future__ import annotations

from typing import Final

from cace_env.evaluation.results import Header
from experiments.reading.markdown import table

THE_SUITE: Final = """\
# The suite

Suite **{version}**: {description} The list is
[`cace_env/data/suites/{version}.yaml`](../cace_env/data/suites/{version}.yaml); it does not change any more, a better
choice is a new version. An entry is a scenario like any other:

```python
import cace_env
from cace_env.evaluation import load_suite

entry = load_suite("{version}").entries[0]
scenario = entry.load()  # also for gymnasium.make(..., scenario=scenario)
print(entry.id, cace_env.evaluate("cace", entry.case(), seeds=range(3)).column("cost"))
```"""

SCORES: Final = """\
**Score** = `100 x (LRU - policy) / (LRU - reference)`, costs summed over all seeds: 0 is as good as LRU, 100 as good
as the clairvoyant reference, which knows all that will be asked and searches for a plan that is cheap under it
(`cace_env/planning/planner.py`); below 0 is worse than LRU. The reference is no bound: nobody has proved that nothing
is better. **Headroom** = `100 x (LRU - reference) / LRU`. A score hides how large the gap is, so read both. Costs are
summed before they are divided: a seed on which there is nothing to gain cannot blow up the score of the others. Where
the gap is under 1 % of LRU's cost there is no score.

In brackets stands the 95 % interval of a percentile bootstrap over seeds (10,000 resamples), the same draws for
policy, LRU and reference, so that what a hard seed does to all three cancels out. The **interquartile mean** over the
entries leaves out a quarter of the scores at either end; its interval is a stratified bootstrap: seeds are drawn anew
within each entry, independently of the others (Agarwal et al., NeurIPS 2021). It says how much the mean depends on
the requests that were drawn. The entries are given: of other scenarios it says nothing. Entries that share a workload
share hard seeds too, which the stratified draws do not count in. *No swapping* is the same fleet with room for every
model, what is left when nothing is ever evicted: a yardstick, and no bound either, since models that are resident
together slow each other down. **No policy can cost less than** each request alone on the fastest accelerator, its
model resident and its prefix cached (`cace_env/simulation/bounds.py`): that is proven, but knows nothing of memory, so
it
says how much of a cost is work and not how much of the rest could be saved."""

WAITS: Final = """\
The longest wait is the mean over seeds of the episode's longest wait for a first token: a policy that saves cost by
letting somebody starve shows here."""

MEMORY: Final = """\
One scenario with more and more memory: the fraction is the memory of all accelerators over the weights of all models.
Each model needs a reserve for its KV cache and runtime beside its weights, so at 100 % not all of them fit yet."""

_FORMAT: Final = """\
## Hand in results

```console
python -m experiments.submission make --policy cace --out cace.csv
python -m experiments.submission make --policy my_module:my_policy --trained-on "train seeds 0-999" \\
    --simulated-requests 60000000 --code https://example.org/my-policy --out mine.csv
python -m experiments.submission check mine.csv
```

`make` runs LRU and the policy on all test seeds of every entry (`--env` takes those of one environment) and writes a
results file. Any other program may write one too. It is CSV under a header: lines that begin with `# ` and hold YAML,
so `pandas.read_csv(file, comment="#")` reads the table.

{header}

{columns}

`check` reads the file and says with row, value and limit what is wrong: columns and types, numbers that cannot be,
entries and seeds that are missing, stand twice or belong to no test split, fingerprints of other entries, costs that
no policy can reach. Then it runs LRU again on ten episodes drawn at random, and a built-in policy or the one named by
`--policy` too, and compares every number exactly: equal requests in the same simulator give equal numbers. At last it
prints the scores. It cannot tell whether a policy peeped at the test seeds; that is what `trained_on` is a word of
honour for.

Train and choose on the splits `train` and `validation` (`cace_env.scenarios.seeds`;
`python -m experiments.suite --quick --split validation --reference none` runs the suite there).
The costs of LRU and of the
reference on all entries and test seeds ship with the suite in this format, so nobody has to compute them again:
`cace_env.evaluation.results.published("v1")`."""

_COLUMNS: Final = (
    ("`entry`, `policy`, `seed`", "every entry and test seed once for the policy and once for `lru`"),
    ("`cost`", "of the episode, with all its digits"),
    ("`ttft_mean_s`, `e2e_mean_s`", "mean time to first token and mean latency [s], seven digits"),
    ("`longest_wait_s`", "longest wait for a first token [s], seven digits"),
    ("`evictions`", "models brought out of memory"),
)
FORMAT: Final = _FORMAT.format(
    header=table(
        ("key of the header", "holds"),
        [(f"`{name}`", str(field.description)) for name, field in Header.model_fields.items()],
    ),
    columns=table(("column", "holds"), _COLUMNS),
)

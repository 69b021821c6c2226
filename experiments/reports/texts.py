"""What every report of a comparison says, whatever its numbers."""

from __future__ import annotations

from typing import Final

from cace_env.tables import Protocol

WHAT_THIS_IS: Final = """\
A company hosts its own code language models on a few accelerators. Small models complete code while developers type;
large ones chat, reason and work as agents. Together they do not fit into accelerator memory. A request for a model
that is not there waits for it to be loaded, and first some other model must be evicted. **Which one?** is the
question that every policy above answers. They were run in a simulator of such fleets (cace-env), each on exactly
the same requests.

**CACE** (Context-Aware CodeLLM Eviction, arXiv 2506.18796) weighs load time, latency sensitivity of the task,
expected output length, recent use and demand in a sliding window. Its exact formula is not public as far as we
could find: what ran here is a reconstruction from these factors. **LRU** evicts the model that was not used for
longest, and is what all are compared with."""

ASKED: Final = {
    Protocol.EVICTION: "which model makes room; the model whose oldest request has waited longest is loaded",
    Protocol.SWAP: "which waiting model is loaded next, or none now; then which model makes room",
}

SCORES: Final = """\
`Score = 100 x (LRU - policy) / (LRU - reference)`, costs summed over seeds: 0 is as good as LRU, 100 as good as the
clairvoyant reference, which knows every request to come and searches for a plan that is cheap under them. The reference
is no bound: there is no proof that nothing is better. The interquartile mean leaves out a quarter of the scenarios at
either end (with fewer than four it is the mean); intervals are 95 %, by a stratified bootstrap over seeds, and left
out with fewer than 10 seeds."""

WHERE_FROM: Final = """\
In Swap-v0 a policy decides two things: in which **order** waiting models are loaded (and whether to wait for an idle
victim), and which **victims** make room. A policy named `order+policy` does both; one without an order loads the model
whose oldest request has waited longest (`fifo`), and drains busy models at once where no idle victim suffices. Each row
of the tables sets two policies side by side that differ in one thing alone. Numbers are cost saved, with 95 %
intervals."""

HOW_TO_READ: Final = """\
- **TTFT**: time to first token, from a request's arrival to the first token of its answer: what a developer feels who
  waits for a completion. **E2E**: until the last token: what an agent or a reader of a long answer waits for.
- **Cost**: every second that a request waits for its first token, and every second until its last one, times
  weights by task that each scenario states. It is what the policies are judged by.
- **Cost saved against LRU**: `100 x (LRU's cost - the policy's) / LRU's cost`, both summed over all seeds. Above 0
  the policy is better. In brackets the 95 % interval of a paired bootstrap: seeds are drawn again 10,000 times, the
  same for both, so what a hard seed does to both cancels out. **Bold**: the interval leaves out 0. With many
  comparisons, about one in twenty leaves it out by chance. Of fewer than 10 seeds an interval means little, and
  nothing is bold.
- Everything else is the mean over seeds of the episode's own number; a p95 is the mean of the episodes' 95 %
  quantiles.
- **Clairvoyant** rules (Belady and its kin) know when each model will be asked for next. No deployed system can;
  they show what is to be gained: **the gap** is what the cheapest of them saves against LRU. They are no bound: they
  know nothing of queues and drains, and other rules may beat them.
- **no-swapping** is the same fleet with room for every model: what is left when nothing is ever evicted, and each
  model is loaded once. It is no bound: models that are resident together slow each other down.
- **The least share of LRU's cost that any policy can cost** is proven: each request alone on the fastest
  accelerator, its model resident, its prefix cached (`cace_env/simulation/bounds.py`). It knows nothing of memory, so
  it says how much of a cost is work, not how much of the rest could be saved.
- **Evictions** are models brought out of memory; **loads** brought in; **regret loads** those of models evicted
  less than 60 s before; **decisions** the times that the policy was asked: where only one model may leave, it
  is not asked. **Longest wait**: the mean over seeds of the longest time that a request waited for its first token; a
  policy that saves cost by letting a request starve shows there.
- **Waited [min/day]**: minutes that all developers together wait for first tokens in 8 hours of this load."""

CAVEATS: Final = """\
- The weights of the cost are assumptions: nothing is published on what a developer's second of waiting is worth by
  task. `rows.csv` has the request-seconds by task, so other weights can be tried without a new run.
- Requests called generated are drawn from published statistics of real services, not recorded; requests called
  composite come from a log to which models, tasks or users were attached, as their label says. A time compression
  in the label means that the log was played faster than it was recorded, which makes contention worse.
- The simulator is not a machine: speeds and load times are fitted to published measurements or taken from data
  sheets (`docs/catalogue.md`), serving is a fluid model of continuous batching (`docs/serving.md`), loading does
  not slow serving down, and accelerators do not compete for the disk.
- Deployed systems are represented by their rule of eviction alone, on the fleet and queue of this simulator; what
  else they do is listed in `docs/policies.md`. CACE is a reconstruction, with one set of weights for all scenarios.
- "The cheapest" rule of a kind was picked on the same seeds that its number is from, which flatters it a little.
- Intervals say how much the numbers depend on the draw of requests. They say nothing of how well a scenario fits
  your fleet: for that, run it on your own log (`docs/compare.md`)."""

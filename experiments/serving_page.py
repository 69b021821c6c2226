"""docs/serving.md as far as it is not measured; `experiments.validate_serving` fills in the rest."""

PAGE = """# The serving model against an iteration-level loop

Written by `python -m experiments.validate_serving --write docs/serving.md`: change that, not this page.

An engine that serves a model runs one forward pass after another, tens of them a second. The simulator
does not run them. It serves as a *fluid* ([design](design.md), section 2): between two events - an arrival, a first
token, a finish - all passes ("rounds") of an engine take equally long, so the next event is a division away, however
many passes lie between. This page holds it against a loop that runs every pass (`experiments/iteration_level.py`).

## What is compared

The loop does as vLLM does. A pass emits a token of every decoding request and computes prompt tokens, both together at
most `chunk_tokens` (2,048): prompts in order of arrival, several of them if they fit, the last one in part. It takes
the fixed part of a round, what each decoding request adds at its context at that moment, and the work of these very
prompt tokens at their positions. Whoever arrives meanwhile waits for the next pass. Two models on one accelerator take
turns by time slices of 2 ms (assumed; a quarter or four times as long changes no figure of the loop by more than
{slices}). Loop and fluid read the same tables: the speeds themselves are the business of the [catalogue](catalogue.md).
Seats and KV room are granted in both as section 2 says; vLLM takes KV blocks as they fill, and preempts when none is
left.

One model (qwen2.5-coder-7b), or two (qwen2.5-coder-14b gets a third of the requests), on one A100-80, resident from
the start, nothing swapped. Requests: {traces}.
The traces name no models: those are drawn, so the results with two models are composites. Azure LLM inference trace
2023, Microsoft; Patel et al., Splitwise, ISCA 2024, CC BY 4.0.

**Load** is the rate of arrivals over the rate at which the loop works off the whole trace when all of it waits at time
0; the trace's times are divided by whatever gives that load. The busy share, listed beside it, is no measure of load:
an engine that decodes one request is as busy as one that decodes twenty.

{latencies}

These are the times in the loop. The code trace comes in bursts (the CV of its gaps is 13), so its queues are long at
any load: the mean TTFT is seconds at 30 % and more than a minute at 90 %. The conversation trace at 90 % waits
for KV room (32,768 tokens per model). Nothing was cut off: every run goes on until the last request has finished. Where
queues are long, a small error says no more than that throughput is right. The conversation trace at 30 and 60 % is
the sharper test, because a TTFT there is little more than the passes of one prompt.

## Errors of the fluid

Relative error of mean and 95 % quantile over all requests. Tolerated: 5 % of means and 10 % of quantiles, twice that
at 90 % load.

{errors}

## Where it errs, and why

The same against a loop that computes one prompt at a time, the head of the queue, as the rules of the simulator say.
What is left here is the error of the fluid as such; the difference to the table above is what that rule leaves out.

{head}

- **An arrival during a pass.** The loop lets it wait for the next pass, the fluid begins its prompt at once: on average
  half a pass too early. That is all of the error of TTFT in this table. E2E hardly notices.
- **One prompt at a time.** vLLM fills a pass with several short prompts. Where prompts queue up (code), they share
  the fixed part of a pass, and the fluid is too slow. Where they seldom do (conversation), a prompt that shares a pass
  waits until all of that pass is computed, and the tokens of decoding requests can push the rest of a prompt
  into one more pass: there the fluid is too fast.
- **The mean context.** The fluid gives a decoding request the context that it has half-way. Summed over its tokens that
  is exact; what others feel of it is shifted in time. No figure here shows it.
- **Prefill spread evenly.** The last tokens of a long prompt cost more attention than the first; the fluid spreads the
  sum over all its passes. No figure shows it either.
- **Time slices.** The fluid takes them as infinitely short, see above.

## If co-resident engines took turns by whole passes

Processes that share a GPU are switched by time slices, wherever they are. A server that runs several models in one
process could alternate whole passes instead: then a prompt's long pass holds up the short ones of the other model, and
the share of a model follows the length of its passes. That is another system, not an error of the approximation.
How much it matters, against the same fluid:

{turns}

## Running it

```
python -m experiments.validate_serving                          # tables in the terminal
python -m experiments.validate_serving --write docs/serving.md  # this page
```

It reads the traces from the working directory (`python -m cace_env.fetch azure2023-code`, `... azure2023-conv`) or from
`--code FILE` and `--conversation FILE`; without them it generates requests with their published quantiles, and says so.
`tests/test_serving_model.py` holds the tolerances on generated requests, and on the traces where they are.
"""

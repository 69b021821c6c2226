"""What Prometheus reads of a router."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cace_env.live.stage import Stage

WAITS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
DECISIONS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)


class Metrics:
    """The metrics of one router; the names of models are labels."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"cace_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"cace_{name}", about, labels, registry=registry)

        def histogram(name: str, about: str, *labels: str, buckets: tuple[float, ...] = WAITS_S) -> Histogram:
            return Histogram(f"cace_{name}", about, labels, registry=registry, buckets=buckets)

        self.ttft = histogram("ttft_seconds", "From the arrival to the first token", "model")
        self.e2e = histogram("e2e_seconds", "From the arrival to the end of the answer", "model")
        self.waited = histogram("queue_seconds", "From the arrival until the server got the request", "model")
        self.requests = counter("requests", "Requests that have ended, by how", "model", "outcome")
        self.refused = counter("refused", "Requests that were not taken", "reason")
        self.evictions = counter("evictions", "Unloads that have begun", "model")
        self.loads = counter("loads", "Loads that have begun", "model")
        self.load = histogram("load_seconds", "Duration of loads", "model")
        self.unload = histogram("unload_seconds", "Duration of unloads", "model")
        self.failures = counter("move_failures", "Loads and unloads that the server refused", "model", "what")
        self.decisions = counter("decisions", "Questions answered, by who did", "by")
        self.decided = histogram("decision_seconds", "From a question to its answer", buckets=DECISIONS_S)
        self.decides = gauge("policy_decides", "1 while the policy decides, 0 while LRU does in its place")
        self.handovers = gauge("handovers", "How often LRU took over since the start", "reason")
        self.log_errors = gauge("decision_log_errors", "Attempts to write decisions that have failed since the start")
        self.log_lost = gauge("decision_log_lost", "Decisions that were dropped because they could not be written")
        self.waiting = gauge("waiting", "Requests that wait", "model")
        self.running = gauge("running", "Requests that a server works on", "model")
        self.used = gauge("memory_used_bytes", "Memory of models that are loaded, loading or leaving", "accelerator")
        self.budget = gauge("memory_budget_bytes", "Memory that models may take", "accelerator")

    def of_log(self, failed: int, lost: int) -> None:
        """Brings up to date what is known of the decision log."""
        self.log_errors.set(failed)
        self.log_lost.set(lost)

    def of_stage(self, stage: Stage) -> None:
        """Brings up to date who decides."""
        self.decides.set(not stage.standing().reason)
        for reason, times in stage.handovers.items():
            self.handovers.labels(reason).set(times)

    def total(self, sample: str) -> float:
        """The sum of a sample over all labels, such as `cace_loads_total`."""
        return sum(each.value for metric in self.registry.collect() for each in metric.samples if each.name == sample)

    def text(self) -> bytes:
        """In the format that Prometheus reads."""
        return generate_latest(self.registry)

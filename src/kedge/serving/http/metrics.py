"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
A_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter("kedge_requests", "Requests by route and status.", ["route", "status"], registry=here)
        self.prompt_tokens = Counter("kedge_prompt_tokens", "Tokens of prompts that were answered.", registry=here)
        self.answer_tokens = Counter("kedge_answer_tokens", "Tokens of answers, finished or not.", registry=here)
        self.reused = Counter(
            "kedge_prefix_tokens_reused", "Tokens of prompts that were not computed again.", registry=here
        )
        self.decisions = Counter(
            "kedge_guard_decisions", "What the guard did.", ["rule", "on", "did"], registry=here
        )  # fmt: skip
        self.first_token = Histogram(
            "kedge_time_to_first_token_seconds", "From the request to its first text.", buckets=SECONDS, registry=here
        )
        self.a_token = Histogram(
            "kedge_time_per_token_seconds", "Of an answer's tokens but the first.", buckets=A_TOKEN, registry=here
        )
        self.waiting = Gauge("kedge_answers_waiting", "Answers that wait for room in the batch.", registry=here)
        self.batch = Gauge("kedge_batch_size", "Answers that are being written.", registry=here)
        self.version = Gauge("kedge_weights_version", "Of the weights that answer now.", registry=here)

    def watch(self, waiting: Callable[[], float], batch: Callable[[], float], version: Callable[[], float]) -> None:
        """Where the present state is to be asked for."""
        self.waiting.set_function(waiting)
        self.batch.set_function(batch)
        self.version.set_function(version)

    def text(self) -> bytes:
        """All of it, in Prometheus' format."""
        return generate_latest(self.registry)

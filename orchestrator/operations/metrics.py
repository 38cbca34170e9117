"""The metrics for Prometheus: `python -m orchestrator.operations.metrics` prints the table of docs/metrics.md.

They come from one reading of Redis, so every api process exposes the same values, and a restart loses none.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from orchestrator import __version__
from orchestrator.store import Node, Reading
from orchestrator.store.histograms import BOUNDS

#: (values of the labels, value) of each series.
Series = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Definition:
    """One gauge or counter: its name without the prefix, its help text, its labels, and how it is read."""

    name: str
    help: str
    read: Callable[[Reading], Series]
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Its type in Prometheus."""
        return "counter" if self.name.endswith("_total") else "gauge"


def _one(read: Callable[[Reading], float | None]) -> Callable[[Reading], Series]:
    def series(reading: Reading) -> Series:
        value = read(reading)
        return [] if value is None else [((), value)]

    return series


def _each(read: Callable[[Reading], Mapping[str, float]]) -> Callable[[Reading], Series]:
    return lambda reading: [((label,), value) for label, value in read(reading).items()]


def _stat(**fields: str) -> Callable[[Reading], Series]:
    """Counters of `pool:stats` by the value of the one label."""
    return lambda reading: [((label,), float(reading.stats.get(field, 0))) for label, field in fields.items()]


def _total(field: str) -> Callable[[Reading], Series]:
    return _one(lambda reading: float(reading.stats.get(field, 0)))


def _counted(prefix: str) -> Callable[[Reading], Series]:
    """Counters of `pool:stats` whose fields are `prefix:label:label`."""
    return lambda reading: [
        (tuple(field.split(":")[1:]), float(value))
        for field, value in sorted(reading.stats.items())
        if field.startswith(f"{prefix}:")
    ]


def _of_nodes(read: Callable[[Reading, Node], float]) -> Callable[[Reading], Series]:
    return lambda reading: [((node.id,), float(read(reading, node))) for node in reading.nodes.values()]


PREFIX = "orchestrator_"
DEFINITIONS = (
    Definition("build_info", "The version that answers; always 1.", lambda _: [((__version__,), 1)], ("version",)),
    Definition("agents", "Living agent processes by state.", _each(lambda r: r.agents_by_state), ("state",)),
    Definition("pool_agents", "Warm agents that wait for a session.", _one(lambda r: r.counts["pool"])),
    Definition("pool_target", "Warm agents to keep.", _one(lambda r: r.target)),
    Definition(
        "sessions", "Live sessions by state; queued is the waiting line.", _each(lambda r: r.sessions), ("state",)
    ),
    Definition("sessions_limit", "Sessions at once; a start beyond joins the line.", _one(lambda r: r.max_sessions)),
    Definition("celery_queue_length", "Celery tasks that wait, by queue.", _each(lambda r: r.queues), ("queue",)),
    Definition(
        "beat_last_tick_timestamp_seconds", "When beat last checked its schedule.",
        _one(lambda r: r.ticks.get("beat", 0.0)),
    ),
    Definition(
        "beat_task_last_sent_timestamp_seconds", "When beat last sent each of its tasks.",
        _each(lambda r: {name: at for name, at in r.ticks.items() if name != "beat"}), ("task",),
    ),
    Definition(
        "node_heartbeat_age_seconds", "Since the node's Celery worker last reported.",
        _of_nodes(lambda r, node: max(0.0, r.now - (node.last_beat or 0))), ("node",),
    ),
    Definition(
        "node_canary_age_seconds", "Since a task last came through the node's own queue.",
        _of_nodes(lambda _, node: node.canary_age), ("node",),
    ),
    Definition(
        "node_host_up", "Whether the node's agent host is connected.",
        _of_nodes(lambda _, node: node.host), ("node",),
    ),
    Definition(
        "node_draining", "Whether the node takes no more sessions.",
        _of_nodes(lambda _, node: node.draining), ("node",),
    ),
    Definition(
        "node_sessions", "Sessions that the node's agents serve.",
        _of_nodes(lambda _, node: node.busy), ("node",),
    ),
    Definition(
        "node_warm_agents", "Warm agents of the node.",
        _of_nodes(lambda _, node: node.warm), ("node",),
    ),
    Definition(
        "breaker_open", "Whether agents do not boot, and starts are refused.",
        _one(lambda r: r.breaker.state != "closed"),
    ),
    Definition("breaker_boot_failures", "Boots that have failed in a row.", _one(lambda r: r.breaker.failures)),
    Definition("livekit_up", "Whether LiveKit answers.", _one(lambda r: r.livekit_trouble is None)),
    Definition("redis_latency_seconds", "Round trip to Redis at this scrape.", _one(lambda r: r.server.latency)),
    Definition(
        "memory_low", "Whether no node has memory for one more agent.",
        _one(lambda r: r.memory_shortage is not None),
    ),
    Definition(
        "starts_total", "Sessions begun: with a warm agent at once (hit), or without (miss).",
        _stat(hit="total_hits", miss="total_misses"), ("result",),
    ),
    Definition(
        "sessions_finished_total", "Sessions that are over, as they should be (ended) or not (error).",
        _stat(ended="total_ended", error="total_errors"), ("outcome",),
    ),
    Definition("agents_spawned_total", "Agents that became warm.", _total("total_spawned")),
    Definition("agents_assigned_total", "Agents bound to a session.", _total("total_assigned")),
    Definition("boot_failures_total", "Boots that failed by the agent's own fault.", _total("total_boot_failures")),
    Definition("takeovers_total", "Agents replaced in a call.", _total("total_takeovers")),
    Definition("replacements_total", "Agents replaced before the call began.", _total("total_replacements")),
    Definition(
        "livekit_webhooks_total", "LiveKit webhooks by event and result.",
        _counted("webhook"), ("event", "result"),
    ),
    Definition(
        "room_findings_total", "Differences found between a room and its session.",
        _counted("look"), ("finding",),
    ),
)  # fmt: skip
HISTOGRAMS = {
    "start": "From the request to a bound agent: a warm one at once (hit, as the caller sees it), or later (wait).",
    "boot": "From the spawn of an agent to warm.",
    "join": "From an agent's binding to its being in the room.",
    "first_audio": "From user and agent both being in the room to the agent's first sound.",
    "takeover": "From the noticed loss of an agent in a call to the next one being in the room.",
}


class Exposition:
    """One reading, as a collector for prometheus-client."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its series."""
        for definition in DEFINITIONS:
            name = PREFIX + definition.name
            family: CounterMetricFamily | GaugeMetricFamily
            if definition.kind == "counter":
                family = CounterMetricFamily(name, definition.help, labels=definition.labels)
            else:
                family = GaugeMetricFamily(name, definition.help, labels=definition.labels)
            for labels, value in definition.read(self._reading):
                family.add_metric(labels, float(value))
            yield family
        for name, help_text in HISTOGRAMS.items():
            yield self._histogram(name, help_text)

    def _histogram(self, name: str, help_text: str) -> Metric:
        labels = ["path"] if f"{name}:hit" in BOUNDS else []
        family = HistogramMetricFamily(f"{PREFIX}{name}_seconds", help_text, labels=labels)
        for series, found in self._reading.histograms.items():
            histogram, _, path = series.partition(":")
            if histogram == name:
                buckets = [
                    ("+Inf" if math.isinf(bound) else str(bound), float(count)) for bound, count in found.buckets
                ]
                family.add_metric([path] if path else [], buckets, found.sum_seconds)
        return family


def table() -> str:
    """Return all metrics as a table in Markdown."""
    rows = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for found in DEFINITIONS:
        labels = " ".join(f"`{label}`" for label in found.labels)
        rows.append(f"| `{PREFIX}{found.name}` | {found.kind} | {labels} | {found.help} |")
    for name, help_text in HISTOGRAMS.items():
        labels = "`path`" if f"{name}:hit" in BOUNDS else ""
        rows.append(f"| `{PREFIX}{name}_seconds` | histogram | {labels} | {help_text} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())  # noqa: T201

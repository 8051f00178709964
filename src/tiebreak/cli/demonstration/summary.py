"""The demo's summary: what the live decisions came to, for people and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tiebreak.cli.demonstration.figures import Figures, Worth
from tiebreak.ingest.simulator import NOTICE

COLOURS = {"low": "green", "medium": "yellow", "high": "dark_orange", "critical": "red"}
BAR = 30
SHOWN_CONTRIBUTIONS = 5
REASONS = {
    "agreed": "rules and model agree",
    "audit_sample": "drawn for the audit sample",
    "high_band": "its band always goes to people",
    "uncertain": "a tie: the verdicts differ and the score is uncertain",
    "distance": "a tie: rules and model are far apart",
    "escalated": "a tie: a rule asks for people",
}


@dataclass(frozen=True)
class Told:
    """Everything that the summary tells."""

    url: str
    imported: int
    metrics: Mapping[str, Any]
    figures: Figures
    decision: Mapping[str, Any]
    explanation: Mapping[str, Any]
    latency_ms: Mapping[str, float]
    decisions_per_second: float
    replayed: int
    identical: int
    verified: int
    is_intact: bool
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain data."""
        return {"notice": NOTICE, **asdict(self)}


def summary(told: Told) -> RenderableType:
    """The summary for people."""
    return Group(
        *_section(
            "What came of the live tickets", [_bands(told.figures), "", _routes(told.figures)]
        ),
        *_section("What the model adds", _worth(told.figures.worth, told.metrics)),
        *_section("One decision explained", _explained(told)),
        *_section("Kept and proved", _proved(told)),
        *_section("Go on", [_go_on(told)]),
        Text(NOTICE, style="dim"),
    )


def _section(title: str, parts: Iterable[RenderableType]) -> list[RenderableType]:
    return ["", Text(title, style="bold"), "", *parts, ""]


def _bands(figures: Figures) -> RenderableType:
    table = _grid()
    most = max(figures.bands.values(), default=0) or 1
    for label, count in reversed(list(figures.bands.items())):
        bar = Text("█" * round(BAR * count / most) or "▏", style=COLOURS[label])
        table.add_row(Text(label, style=COLOURS[label]), f"{count:,}", bar)
    return table


def _routes(figures: Figures) -> RenderableType:
    table = _grid()
    for route, count in figures.routes.items():
        table.add_row(route, f"{count:,}", "decided without people" if route == "auto" else "")
    for reason, count in figures.reasons.items():
        table.add_row("", f"{count:,}", Text(REASONS[reason], style="dim"))
    return table


def _worth(worth: Worth, metrics: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(
        f"{worth.bad:,} of these {worth.tickets:,} tickets will end badly: an owner answers late "
        f"or a facility is hit. In the {worth.looked_at:,} most suspect ones people find, by"
    )
    table = _grid()
    ways = (
        ("rules and model", worth.found_by_policy),
        ("rules alone", worth.found_by_rules),
        ("chance", worth.found_by_chance),
    )
    for name, found in ways:
        share = found / worth.bad if worth.bad else 0.0
        table.add_row(name, f"{share:.0%}", Text("█" * round(BAR * share), style="cyan"))
    yield table
    if metrics.get("auc") is not None:
        yield Text(f"The model's AUC on unseen tickets is {metrics['auc']:.3f}.", style="dim")


def _explained(told: Told) -> Iterator[RenderableType]:
    decision, explanation = told.decision, told.explanation
    rules, model = decision["rules"], decision["model"]
    band = decision["band"]
    yield Text.assemble(
        f"Ticket {decision['ticket_id']} is ",
        (band, f"bold {COLOURS[band]}"),
        f" and goes to {decision['route']}: {REASONS[decision['route_reason']]}.",
    )
    yield Text.assemble(
        "Rules say ", (rules["band"], COLOURS[rules["band"]]), f" with {rules['points']} points:"
    )
    for fired in rules["fired"]:
        values = ", ".join(f"{name} = {_value(v)}" for name, v in fired["values"].items())
        yield Text.assemble(f"  • {fired['message']} ", (values, "dim"))
    if model["status"] != "scored":
        yield Text("No model was in service.")
        return
    yield Text.assemble(
        "The model says ",
        (model["band"], COLOURS[model["band"]]),
        f": {model['score']:.0%} chance of a bad end. What moved it most:",
    )
    table = _grid()
    for part in explanation["contributions"][:SHOWN_CONTRIBUTIONS]:
        amount = part["contribution"]
        style = "red" if amount > 0 else "green"
        table.add_row(Text(f"{amount:+.2f}", style=style), part["feature"], _value(part["value"]))
    yield table


def _proved(told: Told) -> Iterator[RenderableType]:
    latency = told.latency_ms
    yield Text(
        f"{told.figures.worth.tickets:,} decisions over HTTP, each durable before its answer: "
        f"{told.decisions_per_second:,.0f} a second, half within {latency['p50']:.0f} ms, "
        f"95% within {latency['p95']:.0f} ms."
    )
    yield _checked(
        told.identical == told.replayed,
        f"{told.identical:,} of {told.replayed:,} decisions replayed bit for bit",
    )
    yield _checked(told.is_intact, f"{told.verified:,} sealed records verified")


def _checked(is_good: bool, text: str) -> Text:
    return Text.assemble(("✓ ", "green") if is_good else ("✗ ", "bold red"), text)


def _go_on(told: Told) -> RenderableType:
    table = _grid()
    table.add_row("API", f"{told.url}/docs", "every endpoint, to read and to try")
    table.add_row("a key", "tiebreak keys create --person me --role service", "")
    table.add_row("proofs", "tiebreak replay --workflow locate --sample 1000", "")
    table.add_row("", "tiebreak audit verify", "")
    return table


def _grid() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    return table


def _value(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[object]", value)))
    return str(value)

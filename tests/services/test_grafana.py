"""The dashboard asks for nothing that the gateway does not tell."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from contracts.settings import REPOSITORY
from services.gateway.metrics import PREFIX, Metrics

DASHBOARD = json.loads((REPOSITORY / "services/grafana/gateway.json").read_text("utf-8"))
METRIC = re.compile(rf"{PREFIX}_\w+")
SELECTOR = re.compile(r"\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
OF_HISTOGRAMS = {"le"}


def told() -> dict[str, set[str]]:
    """Each name that Prometheus gets, with its labels."""
    found: dict[str, set[str]] = {}
    for collector in vars(Metrics()).values():
        if not hasattr(collector, "_labelnames"):
            continue
        labels = set(collector._labelnames)
        # `describe` names no samples before there is one; the suffixes are the format's own.
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for suffix in suffixes.get(collector._type, [""]):
            extra = OF_HISTOGRAMS if suffix == "_bucket" else set()
            found[f"{collector._name}{suffix}"] = labels | extra
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Each query, with the title of its panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]


def labels_of(query: str) -> set[str]:
    named = {
        part.partition("=")[0].strip() for s in SELECTOR.findall(query) for part in s.split(",")
    }
    grouped = {name.strip() for group in GROUPING.findall(query) for name in group.split(",")}
    asked = re.findall(r"label_values\(\w+, (\w+)\)", query)
    return {label.rstrip("!~") for label in named | grouped | set(asked) if label}


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_every_metric_and_label_of_a_query_exists(title: str, query: str) -> None:
    known = told()
    names = METRIC.findall(query)
    assert names, title
    for name in names:
        assert name in known, f"{title}: there is no {name}"
        assert labels_of(query) <= known[name], f"{title}: {name} has no such label"


def test_every_metric_of_the_gateway_is_shown() -> None:
    asked = " ".join(query for _, query in queries())
    shown = set(METRIC.findall(asked))
    bases = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in told()}
    missing = [base for base in sorted(bases) if not any(name.startswith(base) for name in shown)]
    assert missing == []


def test_the_legend_of_a_query_names_labels_that_are_left_by_it() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            left = kept(target["expr"])
            assert left is None or named <= left, panel["title"]


def kept(query: str) -> set[str] | None:
    """The labels that its outermost grouping leaves; None: all of them."""
    groups: list[Any] = GROUPING.findall(query)
    return {name.strip() for name in groups[0].split(",")} - OF_HISTOGRAMS if groups else None

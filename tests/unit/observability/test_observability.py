"""Dashboard, alerts, runbooks and documentation name only what the operator exposes, and all of it."""

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import promql_parser
import pytest
import yaml
from ippo_operator.process.metrics import Metrics
from ippo_operator.process.operator import ask
from ippo_operator.process.queue import KeyedQueue
from ippo_operator.process.run_index import RunIndex
from prometheus_client.metrics import MetricWrapperBase

ROOT = Path(__file__).parents[3]
FILES = ROOT / "charts" / "ippo-operator" / "files"
RUNBOOKS = ROOT / "docs" / "runbooks"
PAGE = ROOT / "docs" / "metrics.md"
DASHBOARD: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
TARGET_LABELS = {"job", "pod", "namespace", "instance"}
"""Prometheus adds them to every series of a scraped pod."""
UNITS = {"none", "s", "ops", "reqps", "bytes", "percentunit"}


SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


async def exposed() -> dict[str, set[str]]:
    """The labels of every sample that the operator's own metrics can have, by the sample's name."""
    metrics = Metrics()
    queue: KeyedQueue[str] = KeyedQueue()
    service: Any = SimpleNamespace(queue=queue, index=RunIndex(), lease=SimpleNamespace(held=True))
    health: Any = SimpleNamespace(unwatched=None)
    ask(metrics, service, health)
    found: dict[str, set[str]] = {}
    for collector in set(metrics.registry._collector_to_names):
        own = set(collector._labelnames) if isinstance(collector, MetricWrapperBase) else set()
        for family in collector.collect():
            labels = own.union(*(sample.labels for sample in family.samples)) - {"le"}
            for suffix in SUFFIXES[family.type]:
                found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


EXPOSED = asyncio.run(exposed())


def queries() -> list[Any]:
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    found = [
        pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
        for panel in panels
        for target in panel["targets"]
    ]
    return found + [pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES]


class Reader:
    """What a query asks for. PromQL that does not parse raises ValueError."""

    def __init__(self, query: str) -> None:
        self.selectors: list[tuple[str, set[str]]] = []
        self.grouped: set[str] = set()
        self._visit(promql_parser.parse(query.replace("$job", ".*")))

    def _visit(self, node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            self.selectors.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            self.grouped |= set(node.modifier.labels)
        for child in ("expr", "lhs", "rhs", "vector_selector", "param"):
            found = getattr(node, child, None)
            if found is not None:
                self._visit(found)
        for argument in getattr(node, "args", None) or ():
            self._visit(argument)


@pytest.mark.parametrize("query", queries())
def test_every_query_parses_and_asks_for_metrics_and_labels_that_exist(query: str) -> None:
    read = Reader(query)
    assert read.selectors
    for name, labels in read.selectors:
        assert name in EXPOSED
        assert labels <= EXPOSED[name] | TARGET_LABELS
        assert read.grouped <= EXPOSED[name] | TARGET_LABELS


@pytest.mark.parametrize("query", queries())
def test_counters_are_read_as_rates_and_gauges_are_not(query: str) -> None:
    for name, _ in Reader(query).selectors:
        rated = re.search(rf"(rate|increase)\({name}\b", query) is not None
        assert rated == name.endswith(("_total", "_bucket", "_count", "_sum"))


def test_what_a_matcher_asks_for_can_happen() -> None:
    """Values of labels with closed lists, in alerts: a typo there would be an alert that never fires."""
    from ippo_operator.api.reasons import Reason
    from ippo_operator.process.metrics import ERROR_KINDS, PROMOTIONS, REPLACED, ROLLOUTS, WAITS

    known = {
        "reason": {str(reason) for reason in Reason} | {"Completed", "Suspended", REPLACED},
        "kind": set(ERROR_KINDS),
        "outcome": {*PROMOTIONS, *ROLLOUTS, "Stalled", "Completed", "StopConditionMet", "Succeeded", "Failed"},
    }
    for rule in RULES:
        for label, values in re.findall(r'(\w+)[!=]~?"([^"]*)"', rule["expr"]):
            if label in known:
                assert set(values.split("|")) <= known[label], rule["alert"]
            if "longest_wait" in rule["expr"] and label == "reason":
                assert set(values.split("|")) <= {str(reason) for reason in WAITS}


def test_the_page_lists_what_a_run_may_wait_for() -> None:
    from ippo_operator.process.metrics import WAITS

    [row] = [line for line in PAGE.read_text().splitlines() if line.startswith("| `ippo_runs_waiting`")]
    assert row.endswith(f": {', '.join(WAITS)} |")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(names)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_where_its_runbook_is(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    told = rule["annotations"]
    assert told["summary"].endswith((".", "}}."))
    assert told["description"]
    assert told["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    page = (ROOT / told["runbook_url"]).read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## What it means for runs",
        "## Look",
        "## Mend",
    ]


def test_links_of_runbooks_lead_somewhere() -> None:
    for path in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            file, _, _ = target.partition("#")
            assert (path.parent / file).exists(), f"{path.name}: {target}"


def test_the_dashboard_can_be_imported() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_the_documentation_lists_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*?) ?\|", PAGE.read_text(), re.MULTILINE)
    told = {name: set(filter(None, labels.split(", "))) for name, labels in rows}
    own = {name: labels for name, labels in EXPOSED.items() if name.startswith("ippo_")}
    histograms = {name.removesuffix("_bucket"): labels - {"le"} for name, labels in own.items() if "le" in labels}
    plain = {name: labels for name, labels in own.items() if not name.startswith(tuple(histograms))}
    assert told == histograms | plain

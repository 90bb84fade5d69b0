"""The page: self-contained, inert whatever the texts say, bounded, and right about what is missing."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ippo_trainer.report import render, write_report
from ippo_trainer.report.model import RunReport

from . import synthetic

EVIL = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>\"'&</title></style>]]>"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags nest and collects what a browser would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    return synthetic.full(tmp_path_factory.mktemp("run")).report()


def test_nothing_is_loaded_from_anywhere(run: RunReport) -> None:
    text = render(run)
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "img", "form", "base"} & set(page.tags)
    assert all(href.startswith("#") or href == "data:," for href in page.values("href"))
    assert not page.values("src")
    assert not re.search(r"url\(|@import|https?://", text)
    policy = page.values("content")[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert not page.values("style")


def test_every_link_of_the_page_leads_somewhere_and_ids_are_unique(run: RunReport) -> None:
    page = Page(render(run))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.values("href") if href.startswith("#")} <= set(ids)


def test_all_sections_speak(run: RunReport) -> None:
    text = " ".join(Page(render(run)).text)
    for phrase in (
        "33.4% of conversations succeed, up from 3.7%.",
        "greedy-1",
        "CLOSE",
        "have all but vanished",
        "The policy in service loses",
        "Suggested and sent",
        "Q knows more than the average outcome: where Q promises a point more",
        "KL to the previous policy",
        "budget 1",
        "Promoted",
        "Rejected",
        "paired conversations); cycle 3.",
        "improve.klTarget",
    ):
        assert phrase in text
    assert run.cycles[-1].artifacts["improve"].digest in text


def test_the_same_run_gives_the_same_bytes(run: RunReport) -> None:
    assert render(run) == render(run)


def test_evil_texts_are_inert_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "INTENTS", (EVIL, *synthetic.INTENTS[1:]))
    monkeypatch.setattr(synthetic, "STAGES", (EVIL, *synthetic.STAGES[1:]))
    monkeypatch.setattr(synthetic, "LADDER", [(EVIL, 0.3, 0.3), *synthetic.LADDER])
    made = synthetic.Run(tmp_path)
    made.describe(collect={"simulate": {"environment": {"name": EVIL, "options": {EVIL: EVIL}}}}, seed=EVIL)
    made.warm_start()
    made.cycle(1, message=EVIL)
    run = dataclasses.replace(made.report(), name=EVIL, problems=[EVIL])
    text = render(run)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert page.tags.count("style") == page.tags.count("title") - len(re.findall("<title>", text)) + 1
    assert "<script" not in text
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert EVIL in "".join(page.text)
    assert f"name: Ana {EVIL}" in "".join(page.text)
    assert f"stock: 3 {EVIL}" in "".join(page.text)


def test_secrets_and_places_of_the_manifest_are_not_shown(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path, ["Promote"])
    made.describe(
        artifacts={"s3": {"endpointUrl": "https://user:hunter1@store"}},
        pods={"collect": {"env": [{"name": "KEY", "value": "hunter2"}]}},
        warmStart={"conversations": "s3://user:hunter3@bucket/log.jsonl"},
        collect={"simulate": {"environment": {"name": "e", "options": {"apiKey": "hunter4", "api_token": "hunter5"}}}},
    )
    text = render(made.report())
    assert "hunter" not in text
    assert "bucket/log.jsonl" in text


def test_a_huge_run_makes_a_small_page(run: RunReport) -> None:
    cycle = run.trained[-1]
    assert cycle.training is not None
    long = dataclasses.replace(
        cycle, training=cycle.training.model_copy(update={"curves": cycle.training.curves * 100})
    )
    cycles = [dataclasses.replace(long, iteration=n, informative=True) for n in range(1, 1001)]
    text = render(dataclasses.replace(run, cycles=cycles, problems=["damaged"] * 5000))
    Page(text)
    assert len(text) < 2_500_000
    assert "and 4980 more" in text


def test_an_ordinary_page_is_small(run: RunReport) -> None:
    assert len(render(run)) < 400_000


def test_long_conversations_are_cut(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    made.warm_start()
    made.cycle(1, message="word " * 100_000)
    text = render(made.report())
    assert len(text) < 400_000
    assert "more characters)" in text


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("outcomes", [[], ["Reject"], ["Inconclusive"], ["Promote"], ["Promote", "Reject"]])
def test_short_runs_have_a_page(tmp_path: Path, outcomes: list[str], exact: bool) -> None:
    text = render(synthetic.full(tmp_path, outcomes, exact=exact).report())
    words = " ".join(Page(text).text)
    assert "nan" not in re.sub(r"<[^>]*>", "", text).split()
    if not outcomes:
        assert "No evaluation has been published yet" in words
    elif not exact:
        assert "This environment cannot be solved exactly" in words
    if outcomes == ["Reject"]:
        assert "No candidate has replaced the starting policy" in words


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    assert "Nothing has been published yet." in " ".join(Page(render(synthetic.Run(tmp_path).report())).text)


def test_bare_minimum_metrics_have_a_page(tmp_path: Path) -> None:
    made = synthetic.Run(tmp_path)
    plain = {"success": {"estimate": 0.5}, "value": {"estimate": 0.4}}
    made.put(1, "evaluate", "evaluation", {"metrics.json": {"candidate": plain, "current": plain}}, {})
    made.put(1, "fit-q", "q", {"calibration.json": {}}, {})
    made.put(1, "improve", "policy", {"training.json": {"curves": [{"update": 0, "loss_of_a_new_kind": 1.0}]}}, {})
    run = made.report()
    assert run.problems == []
    words = " ".join(Page(render(run)).text)
    assert "Loss of a new kind" in words
    assert "The evaluation recorded no decision." in words


def test_transcripts_pair_seeds_and_say_who_speaks(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path, ["Promote", "Reject"])
    words = " ".join(Page(render(made.report())).text)
    assert "Before: the policy that the run started from. After: the one in service after cycle 2." in words


def test_few_seeds_in_common_are_joined_by_the_promoted_steps(run: RunReport) -> None:
    last = run.cycles[-1]
    assert last.transcripts is not None
    few = last.transcripts.model_copy(update={"candidate": last.transcripts.candidate[:1]})
    cycles = [*run.cycles[:-1], dataclasses.replace(last, transcripts=few)]
    words = " ".join(Page(render(dataclasses.replace(run, cycles=cycles))).text)
    assert "After: the one in service after cycle 4." in words
    assert "After: the one promoted by cycle 4." in words


def test_other_seeds_fall_back_to_the_promoted_steps(run: RunReport) -> None:
    def reseeded(number: int, cycle: object) -> object:
        told = cycle.transcripts  # type: ignore[attr-defined]
        if told is None:
            return cycle
        change = {
            side: [said.model_copy(update={"seed": f"{number}-{said.seed}"}) for said in getattr(told, side)]
            for side in ("candidate", "current")
        }
        return dataclasses.replace(cycle, transcripts=told.model_copy(update=change))  # type: ignore[type-var]

    cycles = [reseeded(cycle.iteration, cycle) for cycle in run.cycles]
    words = " ".join(Page(render(dataclasses.replace(run, cycles=cycles))).text)  # type: ignore[arg-type]
    assert "Before: the policy in service when cycle 4 began. After: the one promoted by cycle 4." in words
    assert "Before: the policy that the run started from. After: the one promoted by cycle 1." in words


def test_the_file_is_written_at_once_and_replaces_the_old_one(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path / "run", ["Promote"])
    output = tmp_path / "deep" / "report.html"
    write_report(made.store, output, made.manifest)
    first = output.read_bytes()
    made.cycle(2)
    write_report(made.store, output, made.manifest)
    assert output.read_bytes() != first
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_half_characters_do_not_stop_the_report(tmp_path: Path) -> None:
    made = synthetic.full(tmp_path / "run", ["Promote"])
    made.manifest = {"metadata": {"name": "half \ud83d"}}
    write_report(made.store, tmp_path / "report.html", made.manifest)
    assert "half ?" in (tmp_path / "report.html").read_text("utf-8")


def test_warnings_of_the_stages_are_on_the_first_screen(tmp_path: Path) -> None:
    run = synthetic.Run(tmp_path)
    run.describe()
    run.put(1, "collect", "data", {"turns.txt": "turns"}, {}, warnings=(f"92 % unended {EVIL}",))
    page = Page(render(run.report()))
    assert f"Cycle 1, collect: 92 % unended {EVIL}" in page.text
    assert page.text.index(f"Cycle 1, collect: 92 % unended {EVIL}") < page.text.index("Progress, cycle by cycle")
    assert "script" not in page.tags

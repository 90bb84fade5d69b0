"""What a log holds, in words: sections for a terminal, for a page, and for a run's report. All pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import RootModel, model_validator

from ippo_trainer.contract.lines import cut
from ippo_trainer.data.problems import ProblemKind
from ippo_trainer.data.survey import FUNNEL_TURNS

_COUNTED, _NAMED, _PLAIN = "{:>9}  {}", "{:30}{}", "{}"
_MOST_ROWS, _LONGEST_CELL = 40, 600
_FUNNEL = "{:>5}{:>12}{:>12}{:>12}{:>12}"
Rows = list[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A titled table."""

    title: str
    rows: Sequence[Sequence[str]]
    form: str = _PLAIN
    """Of a row as text."""
    head: Sequence[str] = ()
    tone: str = ""
    """`bad` where something is wrong."""

    def lines(self) -> list[str]:
        """As text."""
        head = [self.head] if self.head else []
        return ["", f"{self.title}:", *(f"  {self.form.format(*row)}" for row in [*head, *self.rows])]


def heading(figures: dict[str, Any]) -> str:
    """Name and size of the file."""
    count = figures["bytes"]
    return f"{figures['file']}, {f'{count / 1e9:.1f} GB' if count >= 1e9 else f'{count / 1e6:.1f} MB'}"


def sections(figures: dict[str, Any]) -> list[Section]:
    """Of the figures of `survey`, with those of `imitation` as `policy` where a policy was looked at."""
    kinds, notices = figures["problems"]["kinds"], figures["notices"]
    first = figures["leftOutFirst"]
    left_out = [
        (f"{count:,}", f"{what} (first: {first[what]})" if what in first else what)
        for what, count in figures["leftOut"].items()
    ]
    tables = [_of_kinds("what is wrong", kinds, "problem", "bad" if kinds else "")]
    tables += [_of_kinds("what is worth a look", notices, "notice", "")] if notices else []
    tables.append(Section("left out", left_out, _COUNTED) if left_out else Section("left out", [("nothing",)]))
    if figures["conversations"]:
        tables += [_about(figures), _funnel(figures), *_lengths(figures), *_policy(figures), _needed(figures)]
    return tables


class LogAccount(RootModel[dict[str, Any]]):
    """The figures of `survey` as a run's import wrote them, for its report. What has no sections is refused."""

    @model_validator(mode="after")
    def _has_sections(self) -> Self:
        try:
            self.sections()
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError) as error:
            raise ValueError(f"no account of a log: {type(error).__name__}: {error!s:.100}") from error
        return self

    @property
    def heading(self) -> str:
        """Name and size of the file."""
        return cut(heading(self.root), _LONGEST_CELL)

    def sections(self) -> list[Section]:
        """Those of `sections`, as much of each as a page has room for."""
        return [
            replace(each, rows=[[cut(cell, _LONGEST_CELL) for cell in row] for row in each.rows[:_MOST_ROWS]])
            for each in sections(self.root)
        ]


def _of_kinds(title: str, kinds: Sequence[dict[str, Any]], name: str, tone: str) -> Section:
    if not kinds:
        return Section(title, [("nothing",)])
    return Section(title, [(f"{kind['count']:,}", _kind(kind, name)) for kind in kinds], _COUNTED, tone=tone)


def _kind(kind: dict[str, Any], name: str) -> str:
    where = ProblemKind(kind["count"], kind["places"], kind[name]).where()
    return f"{kind[name]}" + (f" ({where})" if where else "")


def _about(figures: dict[str, Any]) -> Section:
    outcomes, count = figures["outcomes"], figures["conversations"]
    success = outcomes["success"]
    rows: Rows = [
        ("conversations", f"{count:,}"),
        ("turns", f"{figures['turns']:,}, {figures['turns'] / count:.1f} a conversation"),
        ("with the outcome", f"{outcomes['won']:,}" + (f", {success:.1%} of the finished" if success else "")),
        ("without", f"{outcomes['lost']:,}"),
        ("open (censored)", f"{outcomes['open']:,}"),
        ("suggestions", ", ".join(f"{number:,} {name}" for name, number in figures["reactions"].items() if number)),
        ("written by", ", ".join(f"{name} ({number:,} turns)" for name, number in figures["writers"].items())),
        *_who_and_when(figures),
        *_situations(figures),
    ]
    return Section("what it holds", rows, _NAMED)


def _who_and_when(figures: dict[str, Any]) -> Iterator[Sequence[str]]:
    customers, times, contexts = figures["customers"], figures["times"], figures["contexts"]
    if customers["named"]:
        yield "customers", f"{customers['named']:,}, one has {customers['most']:,} conversations"
    if times:
        first, last = (f"{datetime.fromtimestamp(times[name], UTC):%Y-%m-%d}" for name in ("first", "last"))
        without = f", {times['without']:,} turns without a time" if times["without"] else ""
        yield "from, to", f"{first}, {last} (UTC){without}"
    if contexts["conversations"]:
        yield "with a context", f"{contexts['conversations']:,}, {contexts['different']:,} different contexts"
    if figures["tools"]:
        yield "with messages of tools", f"{figures['tools']:,}"
    if figures["unread"]:
        names = ", ".join(f"{name} ({count:,})" for name, count in figures["unread"].items())
        yield "fields that nobody reads", names


def _situations(figures: dict[str, Any]) -> Iterator[Sequence[str]]:
    different, openings, again = figures["suggestions"], figures["openings"], figures["situations"]
    yield "word for word like another", f"{figures['alike']:,} conversations"
    yield "different suggestions", f"{different['different']:,}, the commonest in {different['commonest']:,} turns"
    yield (
        "first messages of customers",
        f"{openings['different']:,} different; to {openings['oneSuggestion']:,} only one thing was ever suggested",
    )
    yield (
        "situations that come again",
        f"{again['again']:,} in {again['turns']:,} turns; in {again['oneSuggestion']:,} ({again['turnsOfOne']:,} "
        "turns) only one thing was ever suggested",
    )


def _funnel(figures: dict[str, Any]) -> Section:
    rows: Rows = []
    for row in figures["funnel"]:
        turn = f"{row['turn']}+" if row["turn"] == FUNNEL_TURNS else str(row["turn"])
        rows.append((turn, *(f"{row[name]:,}" for name in ("reached", "won", "lost", "open"))))
    title = "by turn: conversations that reach it, and how those that end there end"
    return Section(title, rows, _FUNNEL, ("turn", "reached", "outcome", "ended", "open"))


def _lengths(figures: dict[str, Any]) -> Iterator[Section]:
    lengths, limits = figures["lengths"], figures["limits"]
    if lengths is None:
        return
    names = {"longestPrompt": "longest prompt", "suggestion": "suggestion"}
    rows: Rows = [
        (
            names[name],
            ", ".join(f"{value:,} {'at most' if share == '100' else f'({share} %)'}" for share, value in row.items()),
        )
        for name, row in lengths.items()
    ]
    rows += [(field, f"{value} would do") for field, value in limits.items()]
    yield Section("lengths in tokens of the base", rows, _NAMED)


def _policy(figures: dict[str, Any]) -> Iterator[Section]:
    policy = figures.get("policy")
    if policy is None or policy["perplexity"] is None:
        return
    rows: Rows = [
        ("turns looked at", f"{policy['turns']:,}"),
        (
            "perplexity of the writers",
            f"{policy['perplexity']:.2f} per token; {policy['byFrequency']:.2f} for one who knows frequencies alone",
        ),
    ]
    if len(policy["byWriter"]) > 1:
        rows.append(("by writer", ", ".join(f"{name} {value:.2f}" for name, value in policy["byWriter"].items())))
    rows.append(
        (
            "alternatives",
            f"{policy['alternatives']:.1f} different suggestions of {policy['samples']} on average; in "
            f"{policy['oneSuggestion']:,} of {policy['states']:,} states always the same",
        )
    )
    yield Section("how far the policy is from the writers", rows, _NAMED)


def _needed(figures: dict[str, Any]) -> Section:
    finished = figures["outcomes"]["won"] + figures["outcomes"]["lost"]
    if not figures["needed"]:
        share = "every" if figures["outcomes"]["won"] else "no"
        return Section("for Q", [(f"{share} finished conversation has the outcome: there is nothing to learn from",)])
    rows = [
        (
            f"about {_round(row['conversations'])} finished conversations ({_round(row['outcomes'])} outcomes) if "
            f"suggestions explain {row['explained']:.0%} of the outcome",
        )
        for row in figures["needed"]
    ]
    have = f"this log has {finished:,} ({figures['outcomes']['won']:,} outcomes)"
    return Section("until Q can be told from a constant", [*rows, (have,)])


def _round(number: int) -> str:
    """To two digits that count."""
    return f"{int(float(f'{number:.1e}')):,}"

"""`ippo check-log`: reads a log and prints what it holds."""

import json
import re
import tempfile
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.fields import WINDOW, WINDOW_WORDS, window_seconds
from ippo_trainer.contract.lines import printable

from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.trainer import check_trainer, trainer_errors

_WIDTH = 30
_MOST_TOKENS = 1 << 20


def command(arguments: Namespace) -> int:
    """Prints the figures of the log; 65 if something is wrong with it."""
    check_trainer()
    if arguments.window is not None and not re.fullmatch(WINDOW, arguments.window):
        raise CommandError(f"--window: given {arguments.window}, allowed are {WINDOW_WORDS}")
    if arguments.window is not None and arguments.outcomes is None:
        raise CommandError("--window is of outcomes in a file of their own; give --outcomes, too")
    with trainer_errors(), tempfile.TemporaryDirectory() as folder:
        figures = _survey(arguments, Path(folder))
    print(json.dumps(figures, indent=2) if arguments.json else "\n".join(map(printable, _lines(figures))))
    return BadDataError.exit_code if figures["problems"]["count"] or not figures["conversations"] else OK


def _survey(arguments: Namespace, folder: Path) -> dict[str, Any]:
    from ippo_trainer.data.logs import LogReader
    from ippo_trainer.data.outcomes import Outcomes
    from ippo_trainer.data.survey import survey
    from ippo_trainer.stages.history import local_log
    from ippo_trainer.training.progress import ProgressBar

    window = None if arguments.window is None else window_seconds(arguments.window)
    reactions = arguments.reactions and _uri(arguments.reactions)
    log = local_log(_uri(arguments.log), folder / "log", _here(folder), reactions, ("LOG", "--reactions"))
    reader = LogReader(log.path, "LOG")
    reader.omissions.update(log.left_out)
    outcomes = None
    if arguments.outcomes is not None:
        outcomes = Outcomes(_local(arguments.outcomes, folder / "outcomes", "--outcomes"), window)
    measure = None if arguments.base is None else _measure(Path(arguments.base), arguments.system_prompt)
    with ProgressBar(reader.size, f"reading {reader.path.name}", "bytes") as bar:
        figures = survey(reader, outcomes, measure, lambda reader: bar.update(reader.bytes - bar.count))
        bar.update(reader.size - bar.count)
    return figures


def _local(place: str, folder: Path, name: str) -> Path:
    from ippo_trainer.store.uri import fetch_file

    return Path(place) if "://" not in place else fetch_file(place, folder, _here(folder), name)


def _uri(place: str) -> str:
    return place if "://" in place else f"file://{quote(str(Path(place).absolute()))}"


def _here(folder: Path) -> Any:
    from ippo_trainer.contract.spec import StoreLocation

    return StoreLocation(directory=str(folder))


def _measure(base: Path, system_prompt: str) -> Any:
    """Lengths by the base's tokenizer, rendered as a run renders them."""
    if not base.is_dir():
        raise CommandError(f"--base: there is no folder {base}")
    from ippo_trainer.data.schema import Conversation
    from ippo_trainer.models.load import load_tokenizer
    from ippo_trainer.text.render import Renderer

    renderer = Renderer(load_tokenizer(base), system_prompt, _MOST_TOKENS)

    def measure(conversation: Conversation) -> tuple[int, list[int]]:
        turns = conversation.turns
        prompt = renderer.prompt_at(conversation, len(turns) - 1)
        return len(prompt.ids), [len(renderer.response(turn.suggestion)) for turn in turns]

    return measure


def _lines(figures: dict[str, Any]) -> list[str]:
    """The figures as text."""
    kinds = figures["problems"]["kinds"]
    lines = [f"{figures['file']}, {_size(figures['bytes'])}"]
    lines += _section("what is wrong", [_problem(kind) for kind in kinds] or ["nothing"])
    left_out = [f"{count:>9,}  {what}" for what, count in figures["leftOut"].items()]
    lines += _section("left out", left_out or ["nothing"])
    if figures["conversations"]:
        lines += [*_about(figures), *_funnel(figures), *_lengths(figures), *_needed(figures)]
    return lines


def _problem(kind: dict[str, Any]) -> str:
    first, *others = kind["places"] or [""]
    unit = first.split()[0] if first else ""
    also = ", ".join(place.removeprefix(f"{unit} ") for place in others)
    where = f"{first}, {also}{', …' if kind['count'] > len(kind['places']) else ''}" if also else first
    return f"{kind['count']:>9,}  {kind['problem']}" + (f" ({where})" if where else "")


def _about(figures: dict[str, Any]) -> list[str]:
    outcomes, count = figures["outcomes"], figures["conversations"]
    success = outcomes["success"]
    rows = [
        ("conversations", f"{count:,}"),
        ("turns", f"{figures['turns']:,}, {figures['turns'] / count:.1f} a conversation"),
        ("with the outcome", f"{outcomes['won']:,}" + (f", {success:.1%} of the finished" if success else "")),
        ("without", f"{outcomes['lost']:,}"),
        ("open (censored)", f"{outcomes['open']:,}"),
        ("suggestions", ", ".join(f"{number:,} {name}" for name, number in figures["reactions"].items() if number)),
        ("written by", ", ".join(f"{name} ({number:,} turns)" for name, number in figures["writers"].items())),
    ]
    customers, times = figures["customers"], figures["times"]
    if customers["named"]:
        rows.append(("customers", f"{customers['named']:,}, one has {customers['most']:,} conversations"))
    if times:
        first, last = (f"{datetime.fromtimestamp(times[name], UTC):%Y-%m-%d}" for name in ("first", "last"))
        without = f", {times['without']:,} turns without a time" if times["without"] else ""
        rows.append(("from, to", f"{first}, {last}{without}"))
    contexts = figures["contexts"]
    if contexts["conversations"]:
        rows.append(("with a context", f"{contexts['conversations']:,}, {contexts['different']:,} different contexts"))
    if figures["tools"]:
        rows.append(("with messages of tools", f"{figures['tools']:,}"))
    different, openings = figures["suggestions"], figures["openings"]
    rows += [
        ("word for word like another", f"{figures['alike']:,} conversations"),
        ("different suggestions", f"{different['different']:,}, the commonest in {different['commonest']:,} turns"),
        (
            "first messages of customers",
            f"{openings['different']:,} different; to {openings['oneSuggestion']:,} only one thing was ever suggested",
        ),
    ]
    return _section("what it holds", [f"{name:{_WIDTH}}{text}" for name, text in rows])


def _funnel(figures: dict[str, Any]) -> list[str]:
    from ippo_trainer.data.survey import FUNNEL_TURNS

    rows = [f"{'turn':>5}{'reached':>12}{'outcome':>12}{'ended':>12}{'open':>12}"]
    for row in figures["funnel"]:
        turn = f"{row['turn']}+" if row["turn"] == FUNNEL_TURNS else str(row["turn"])
        rows.append(f"{turn:>5}{row['reached']:>12,}{row['won']:>12,}{row['lost']:>12,}{row['open']:>12,}")
    return _section("by turn: conversations that reach it, and how those that end there end", rows)


def _lengths(figures: dict[str, Any]) -> list[str]:
    lengths, limits = figures["lengths"], figures["limits"]
    if lengths is None:
        return []
    names = {"longestPrompt": "longest prompt", "suggestion": "suggestion"}
    rows = [
        f"{names[name]:{_WIDTH}}"
        + ", ".join(f"{value:,} {'at most' if share == '100' else f'({share} %)'}" for share, value in row.items())
        for name, row in lengths.items()
    ]
    rows += [f"{field:{_WIDTH}}{value} would do" for field, value in limits.items()]
    return _section("lengths in tokens of the base", rows)


def _needed(figures: dict[str, Any]) -> list[str]:
    finished = figures["outcomes"]["won"] + figures["outcomes"]["lost"]
    if not figures["needed"]:
        share = "every" if figures["outcomes"]["won"] else "no"
        return _section("for Q", [f"{share} finished conversation has the outcome: there is nothing to learn from"])
    rows = [
        f"about {_round(row['conversations'])} finished conversations ({_round(row['outcomes'])} outcomes) if "
        f"suggestions explain {row['explained']:.0%} of the outcome"
        for row in figures["needed"]
    ]
    have = f"this log has {finished:,} ({figures['outcomes']['won']:,} outcomes)"
    return _section("until Q can be told from a constant", [*rows, have])


def _round(number: int) -> str:
    """To two digits that count."""
    return f"{int(float(f'{number:.1e}')):,}"


def _section(title: str, rows: list[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {row}" for row in rows)]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

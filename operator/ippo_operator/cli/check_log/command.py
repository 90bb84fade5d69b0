"""`ippo check-log`: reads a log and prints what it holds."""

import heapq
import json
import re
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.fields import WINDOW, WINDOW_WORDS, window_seconds
from ippo_trainer.contract.lines import printable

from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.trainer import check_trainer, trainer_errors

_MOST_TOKENS = 1 << 20
_LOOKED_AT = 256
"""Conversations on which a policy is compared with the writers."""


def command(arguments: Namespace) -> int:
    """Prints the figures of the log; 65 if something is wrong with it."""
    check_trainer()
    if arguments.window is not None and not re.fullmatch(WINDOW, arguments.window):
        raise CommandError(f"--window: given {arguments.window}, allowed are {WINDOW_WORDS}")
    if arguments.window is not None and arguments.outcomes is None:
        raise CommandError("--window is of outcomes in a file of their own; give --outcomes, too")
    if arguments.policy is not None and (arguments.base is not None or arguments.system_prompt):
        raise CommandError("--policy has a tokenizer and a system prompt of its own; leave --base and those out")
    if arguments.html is not None and not Path(arguments.html).absolute().parent.is_dir():
        raise CommandError(f"--html: there is no folder {Path(arguments.html).parent}")
    with trainer_errors(), tempfile.TemporaryDirectory() as folder:
        figures = _survey(arguments, Path(folder))
    from ippo_trainer.report import log_page, log_sections

    if arguments.html is not None:
        Path(arguments.html).write_text(log_page.page(figures), "utf-8", errors="replace")
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        sections = [line for section in log_sections.sections(figures) for line in section.lines()]
        print("\n".join(map(printable, [log_sections.heading(figures), *sections])))
    return BadDataError.exit_code if figures["problems"]["count"] or not figures["conversations"] else OK


def _survey(arguments: Namespace, folder: Path) -> dict[str, Any]:
    from ippo_trainer.data.logs import LogReader
    from ippo_trainer.data.notices import of_policy
    from ippo_trainer.data.outcomes import Outcomes
    from ippo_trainer.data.survey import survey
    from ippo_trainer.stages.history import local_log
    from ippo_trainer.training.progress import ProgressBar

    policy = None if arguments.policy is None else _policy(Path(arguments.policy))
    window = None if arguments.window is None else window_seconds(arguments.window)
    reactions = arguments.reactions and _uri(arguments.reactions)
    log = local_log(_uri(arguments.log), folder / "log", _here(folder), reactions, ("LOG", "--reactions"))
    reader = LogReader(log.path, "LOG")
    reader.omissions.update(log.left_out)
    outcomes = None
    if arguments.outcomes is not None:
        outcomes = Outcomes(_local(arguments.outcomes, folder / "outcomes", "--outcomes"), window)
    measure: Callable[[Any], tuple[int, list[int]]] | None = None
    if policy is not None:
        measure = policy.measure
    elif arguments.base is not None:
        measure = _measure(_renderer(Path(arguments.base), arguments.system_prompt))
    with ProgressBar(reader.size, f"reading {reader.path.name}", "bytes") as bar:

        def done(reader: LogReader) -> None:
            bar.update(reader.bytes - bar.count)

        figures = survey(reader, outcomes, measure, done, time.time(), log.notices)
        bar.update(reader.size - bar.count)
    if policy is not None:
        figures["policy"] = policy.figures()
        figures["notices"] += of_policy(figures["policy"])
    return figures


def _local(place: str, folder: Path, name: str) -> Path:
    from ippo_trainer.store.uri import fetch_file

    return Path(place) if "://" not in place else fetch_file(place, folder, _here(folder), name)


def _uri(place: str) -> str:
    return place if "://" in place else f"file://{quote(str(Path(place).absolute()))}"


def _here(folder: Path) -> Any:
    from ippo_trainer.contract.spec import StoreLocation

    return StoreLocation(directory=str(folder))


def _renderer(base: Path, system_prompt: str) -> Any:
    """Of the base's tokenizer, with room for whatever the log holds."""
    if not base.is_dir():
        raise CommandError(f"--base: there is no folder {base}")
    from ippo_trainer.models.load import load_tokenizer
    from ippo_trainer.text.render import Renderer

    return Renderer(load_tokenizer(base), system_prompt, _MOST_TOKENS)


def _measure(renderer: Any) -> Callable[[Any], tuple[int, list[int]]]:
    """Lengths by a tokenizer, rendered as a run renders them."""

    def measure(conversation: Any) -> tuple[int, list[int]]:
        turns = conversation.turns
        prompt = renderer.prompt_at(conversation, len(turns) - 1)
        return len(prompt.ids), [len(renderer.response(turn.suggestion)) for turn in turns]

    return measure


@dataclass
class _Policy:
    """A policy that is compared with the writers, on conversations drawn from all over the log."""

    model: Any
    renderer: Any
    lengths: Callable[[Any], tuple[int, list[int]]]
    _drawn: list[tuple[int, int, Any]] = field(default_factory=list)
    """A heap, the largest digest first."""
    _seen: int = 0

    def measure(self, conversation: Any) -> tuple[int, list[int]]:
        """Its lengths; keeps the conversations whose names have the least digests, which is as good as by chance."""
        from ippo_trainer.data.situations import digest

        self._seen += 1
        heapq.heappush(self._drawn, (-digest(conversation.id), self._seen, conversation))
        if len(self._drawn) > _LOOKED_AT:
            heapq.heappop(self._drawn)
        return self.lengths(conversation)

    def figures(self) -> dict[str, Any]:
        """Of `imitation`."""
        from ippo_trainer.evaluation.imitation import imitation
        from ippo_trainer.training.progress import ProgressBar

        drawn = [conversation for _, _, conversation in sorted(self._drawn, key=lambda each: each[1])]
        with ProgressBar(len(drawn), "comparing the policy with the writers", "conversations") as bar:
            return imitation(self.model, self.renderer, drawn, bar.update)


def _policy(directory: Path) -> _Policy:
    if not (directory / "prompt.json").is_file():
        raise CommandError(f"--policy: {directory} is no folder of a policy: it has no prompt.json")
    from ippo_trainer.models.load import load_policy
    from ippo_trainer.models.verify import SHORT
    from ippo_trainer.text.render import Renderer

    policy = load_policy(directory, "cpu", SHORT)
    renderer = Renderer.load(directory, policy.tokenizer)
    roomy = Renderer(policy.tokenizer, renderer.system_prompt, _MOST_TOKENS)
    return _Policy(policy.model, renderer, _measure(roomy))

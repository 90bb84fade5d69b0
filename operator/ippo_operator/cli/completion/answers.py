"""What may follow on a command line: verbs, options, and the names that a cluster and a kubeconfig have.

Answers as cobra's `__complete` does, which is what kubectl asks of plugins: a completion a line, with its meaning
behind a tab, and in the last line what else to do.
"""

import argparse
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ippo_operator.cli.cluster_flags import FLAGS
from ippo_operator.cli.command_line import make_parser
from ippo_operator.cli.parsing import Verb

FILES, NO_FILES = 0, 4
"""Cobra's directives: also complete names of files, or not."""
_FILES = {
    "file",
    "log",
    "outcomes",
    "base",
    "out",
    "policy",
    "tables",
    "kubeconfig",
    "certificate_authority",
    "client_certificate",
    "client_key",
}
Choices: TypeAlias = dict[str, str]
"""Completions and what they mean."""


@dataclass
class _Words:
    """What a command line says so far."""

    parser: argparse.ArgumentParser
    values: dict[str, Any] = field(default_factory=dict)
    """Of options, by their `dest`."""
    positionals: int = 0
    pending: argparse.Action | None = None
    """An option whose value is next."""
    only_positionals: bool = False

    @property
    def flags(self) -> Namespace:
        """Those for clusters, as a parsed command line has them."""
        flags = {flag.dest for flag in FLAGS if flag.dest != "as_group"}
        return Namespace(**{name: value for name, value in self.values.items() if name in flags})


def main(words: Sequence[str]) -> int:
    """Prints what completes the last of these words, which follow `ippo`."""
    choices, directive = completions(words)
    for name, about in choices.items():
        print(f"{name}\t{about}" if about else name)
    print(f":{directive}")
    return 0


def completions(words: Sequence[str]) -> tuple[Choices, int]:
    """What completes the last word, and a directive."""
    *before, last = words or [""]
    line = _Words(make_parser("ippo"))
    for word in before:
        _take(line, word)
    head = ""
    action = line.pending
    if action is None and last.startswith("--") and "=" in last:
        name, _, last = last.partition("=")
        action, head = _option(line.parser, name), f"{name}="
    if action is None and last.startswith("-") and not line.only_positionals:
        return _fitting(_options(line.parser), last), NO_FILES
    if action is None:
        action = _positional(line)
    if action is None:
        return {}, NO_FILES
    choices = {head + name: about for name, about in _fitting(_values(action, line), last).items()}
    return choices, FILES if action.dest in _FILES or (action.dest == "run" and not choices) else NO_FILES


def _take(line: _Words, word: str) -> None:
    if line.pending is not None:
        line.values[line.pending.dest], line.pending = word, None
    elif word == "--":
        line.only_positionals = True
    elif word.startswith("-") and word != "-" and not line.only_positionals:
        name, equals, value = word.partition("=")
        action = _option(line.parser, name)
        if action is not None and equals:
            line.values[action.dest] = value
        elif action is not None and action.nargs != 0:
            line.pending = action
        elif action is not None:
            line.values[action.dest] = True
        elif len(word) > 2 and word[1] != "-":  # -nteam
            action = _option(line.parser, word[:2])
            if action is not None:
                line.values[action.dest] = word[2:]
    else:
        action = _positional(line)
        line.positionals += 1
        if isinstance(action, argparse._SubParsersAction) and word in action.choices:
            line.parser, line.positionals = action.choices[word], 0


def _option(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    return parser._option_string_actions.get(name)


def _options(parser: argparse.ArgumentParser) -> Choices:
    """Long names, where there are any."""
    return {
        action.option_strings[-1]: _first_line(action.help)
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    }


def _positional(line: _Words) -> argparse.Action | None:
    actions = [action for action in line.parser._actions if not action.option_strings]
    return actions[line.positionals] if line.positionals < len(actions) else None


def _values(action: argparse.Action, line: _Words) -> Choices:
    if isinstance(action, argparse._SubParsersAction):
        return {one.dest: _first_line(one.help) for one in action._choices_actions}
    if action.choices is not None:
        return {str(choice): "" for choice in action.choices}
    verb: Verb | None = line.parser.get_default("verb")
    in_cluster = verb is None or verb.cluster  # otherwise a run is a folder
    source = _SOURCES.get(action.dest) if in_cluster else None
    return dict.fromkeys(source(line), "") if source is not None else {}


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0].replace("%(prog)s", "ippo")


def _fitting(choices: Choices, beginning: str) -> Choices:
    return {name: about for name, about in choices.items() if name.startswith(beginning)}


def _runs(line: _Words) -> list[str]:
    from ippo_operator.cli.completion import names

    return names.runs(line.flags)


def _namespaces(line: _Words) -> list[str]:
    from ippo_operator.cli.completion import names

    return names.namespaces(line.flags)


def _topics(line: _Words) -> list[str]:
    from ippo_operator.api.reasons import Reason

    return [*map(str, Reason), *_runs(line)]


def _of_kubeconfig(section: str) -> Callable[[_Words], list[str]]:
    def listed(line: _Words) -> list[str]:
        from ippo_operator.cli.completion import names

        return names.of_kubeconfig(line.flags, section)

    return listed


_SOURCES: dict[str, Callable[[_Words], list[str]]] = {
    "run": _runs,
    "topic": _topics,
    "namespace": _namespaces,
    "context": _of_kubeconfig("contexts"),
    "cluster": _of_kubeconfig("clusters"),
    "user": _of_kubeconfig("users"),
}

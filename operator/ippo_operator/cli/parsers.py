"""What `ippo` takes: the parsers' common parts, and the verbs that need no cluster."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from ippo_operator.cli.errors import BAD_INPUT

_RUN = """\
Runs the loop with processes of this machine. All of the run is in one folder: the run itself, its status, logs of
every stage, artifacts, and a report at the end.

Ctrl-C saves a checkpoint and stops; the same command resumes, also after a crash or a power cut. A run that is done
goes on if spec.iterations.max is raised. Other parts of the spec cannot change once the run has started.
"""
_SERVE = """\
An OpenAI-compatible server with the current policy of a run, until Ctrl-C. Prompts are made as in training, and
responses are cut where the run cuts them.

  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "hello"}]}'

In a cluster, spec.serve does this for each promoted policy.
"""
_EXACT = """\
Solves an environment exactly and prints the value (discounted) and the success of reference policies: the optimum, the
environment's own base policy, k greedy steps of policy iteration from it, and others. With --policy it lets a trained
policy hold conversations and scores it against the exact solution.
"""
_EXACT_EXAMPLES = """\
examples:
  ippo exact --env sr-funnel
  ippo exact --env sr-funnel --horizon 8 --discount 0.9 --json
  ippo exact --env sr-funnel --tables my-tables.json
  ippo exact --env double-t-maze --horizon 30
  ippo exact --env sr-funnel --policy runs/demo/artifacts/iterations/0004/policy/0a1b2c3d4e5f6071 --conversations 10000
"""


_COMPLETION = """\
Prints a script with which a shell completes commands, options, and names of runs, namespaces and contexts.

`kubectl ippo` is completed by kubectl's own completion, which asks kubectl_complete-ippo; it is installed with ippo.
"""
_COMPLETION_EXAMPLES = """\
examples:
  source <(ippo completion bash)                                    in ~/.bashrc
  source <(ippo completion zsh)                                     in ~/.zshrc, after compinit
  ippo completion fish > ~/.config/fish/completions/ippo.fish
"""
SHELLS = ("bash", "zsh", "fish")


class Parser(argparse.ArgumentParser):
    """Ends with 64 on a wrong command line."""

    def error(self, message: str) -> NoReturn:
        """One line, after the usage."""
        self.print_usage(sys.stderr)
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_local(commands: Commands) -> None:
    """run, serve, validate, exact, completion, version."""
    _add_run(commands)
    _add_serve(commands)
    _add_validate(commands)
    _add_exact(commands)
    _add_completion(commands)
    add(commands, "version", "version", "the version of this command; as ippo --version")


def add(
    commands: Commands, name: str, module: str, summary: str, about: str = "", examples: str = ""
) -> argparse.ArgumentParser:
    """A verb, carried out by `command(arguments)` of that module of ippo_operator.cli."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=about or summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(module=f"ippo_operator.cli.{module}", in_cluster=False)
    return parser


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """-f and --name."""
    parser.add_argument(
        "-f", "--file", required=True, metavar="RUN.yaml", help="the manifest, - for standard input; as for kubectl"
    )
    parser.add_argument("--name", help="which run, if the file holds several")


def _add_run(commands: Commands) -> None:
    parser = add(
        commands,
        "run",
        "run",
        "run the loop on this machine, or resume it",
        _RUN,
        "example:\n  ippo run -f examples/sr-funnel.yaml --out runs/demo\n",
    )
    add_manifest(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's folder; made if it is not there")


def _add_serve(commands: Commands) -> None:
    examples = "examples:\n  ippo serve runs/demo\n  ippo serve runs/demo --iteration 2 --port 8001\n"
    parser = add(commands, "serve", "serve", "talk to the policy of a run on this machine", _SERVE, examples)
    parser.add_argument("run", metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--iteration",
        type=at_least(0),
        metavar="I",
        help="the policy that it made, promoted or not; 0 is the warm start",
    )
    parser.add_argument("--port", type=at_least(0), default=8000, metavar="N", help="where to listen (default: 8000)")
    parser.add_argument(
        "--engine", choices=("Transformers", "VLLM"), default="Transformers", help="(default: Transformers)"
    )
    parser.add_argument(
        "--max-tokens", type=at_least(1), metavar="N", help="of a response (default: the run's policy.maxNewTokens)"
    )


def _add_validate(commands: Commands) -> None:
    parser = add(commands, "validate", "validate", "check a manifest: one line per problem")
    add_manifest(parser)


def _add_completion(commands: Commands) -> None:
    summary = "complete commands in your shell"
    parser = add(commands, "completion", "completion", summary, _COMPLETION, _COMPLETION_EXAMPLES)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def _add_exact(commands: Commands) -> None:
    parser = add(commands, "exact", "exact", "solve an environment exactly, score a policy", _EXACT, _EXACT_EXAMPLES)
    parser.add_argument(
        "--env",
        required=True,
        type=_name,
        metavar="NAME",
        help="sr-funnel, double-t-maze, module:Class or file.py:Class",
    )
    parser.add_argument("--horizon", type=int, metavar="H", help="most turns of a conversation")
    parser.add_argument("--discount", type=_share, default=0.95, metavar="D", help="per turn (default: 0.95)")
    parser.add_argument("--tables", metavar="FILE", help="other probabilities for sr-funnel, JSON")
    parser.add_argument("--policy", metavar="PATH", help="folder of a policy artifact, to be scored too")
    parser.add_argument(
        "--conversations", type=at_least(2), default=10_000, metavar="N", help="that it holds for that (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of these conversations (default: 0)")
    parser.add_argument(
        "--max-new-tokens",
        type=at_least(2),
        default=16,
        metavar="N",
        help="of a suggestion, as the run's (default: 16)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _name(text: str) -> str:
    if not 1 <= len(text) <= 256:
        raise argparse.ArgumentTypeError("given a name that is empty or longer than 256 characters")
    return text


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"given {text}, allowed is above 0 and at most 1")
    return value


def at_least(lowest: int) -> Callable[[str], int]:
    """An argument that is a whole number of at least so much."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"given {text}, allowed is a whole number of at least {lowest}")
        return value

    return number

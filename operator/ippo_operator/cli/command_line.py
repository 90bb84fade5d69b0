"""The whole command line of `ippo`: what it is about, its flags and its verbs."""

import argparse
from functools import partial
from typing import NoReturn

from ippo_trainer.contract.command_line import Parser

from ippo_operator.cli import (
    chat,
    check_log,
    completion,
    decide,
    diff,
    erase,
    exact,
    explain,
    judge,
    logs,
    plan,
    report,
    run,
    serve,
    status,
    validate,
    version,
)
from ippo_operator.cli.cluster_flags import add_flags
from ippo_operator.cli.parsing import add_verb

_ABOUT = """\
Iterative PPO: turn a chat agent's outcomes into a better agent, again and again.

A run is one YAML file, an IterativePPORun. It goes round this loop on its own:

  warm-start   imitate logged conversations                     once
  collect      let the current policy talk to customers, or take a log
  fit-q        learn from the outcomes what each suggestion is worth
  improve      MPO or PPO towards suggestions that are worth more
  evaluate     is the candidate better? then it is the current policy
"""
_EXAMPLES = """\
examples:
  on this machine:
    ippo validate -f examples/sr-funnel.yaml
    ippo check-log chats.jsonl
    ippo plan -f examples/sr-funnel.yaml
    ippo run -f examples/sr-funnel.yaml --out runs/demo
    ippo status runs/demo
    ippo report runs/demo
    ippo judge runs/demo
    ippo chat runs/shop
    ippo erase runs/shop CONVERSATION
    ippo exact --env sr-funnel

  in a cluster (also as `kubectl ippo -n team status`; flags before or after the verb):
    ippo diff -f RUN.yaml
    kubectl apply -f RUN.yaml
    ippo status NAME --watch
    ippo logs NAME --follow
    ippo approve NAME
    ippo suspend NAME
    ippo retry NAME
    ippo report NAME
    ippo explain NAME

exit codes:
  0    done
  1    the run stalled, `ippo status` says why; `ippo diff` found a difference
  64   the manifest or the command line is wrong, or the cluster refuses
  65   an input of a stage is wrong
  75   not now: another runner is at work, a disk is full, a store or an API server is down
  130  stopped by Ctrl-C; the same command resumes
"""


def make_parser(program: str) -> Parser:
    """All verbs. kubectl's flags stand before a verb or after it."""
    parser = Parser(
        prog=program,
        usage="%(prog)s [FLAGS] COMMAND ...",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    add_flags(parser, before_the_verb=True)
    parser.add_argument("-A", "--all-namespaces", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog=program)
    for verb in (run, serve, chat, validate, plan, check_log, exact, completion, version, status, report, logs):
        add_verb(commands, verb.VERB, verb.add_arguments)
    for verb in (judge, erase):
        add_verb(commands, verb.VERB, verb.add_arguments)
    for decision in decide.VERBS:
        add_verb(commands, decision, partial(decide.add_arguments, decision))
    for verb in (diff, explain):
        add_verb(commands, verb.VERB, verb.add_arguments)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from ippo_operator.cli.version.command import line

        print(line())
        parser.exit()

"""`ippo approve`, `reject`, `suspend`, `resume`, `retry`: small changes of a run's spec."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, add_run, at_least

APPROVE = """\
Lets the candidate that waits become the current policy: sets spec.promotion.approve. Prints the figures first. Only for
runs with spec.promotion.mode Manual, and for those without a simulator. An answer is final.

With ITERATION, an answer can also be given before the candidate is there; it counts if the gate lets it pass.
A run in a folder goes on from there at once, as with `ippo run`.
"""
REJECT = """\
Keeps the policy before the candidate that waits: sets spec.promotion.reject. Prints the figures first. Only for runs
with spec.promotion.mode Manual, and for those without a simulator. An answer is final.

With ITERATION, an answer can also be given before the candidate is there. A run in a folder goes on from there at once,
as with `ippo run`.
"""
SUSPEND = """\
Stops the running stage at its next checkpoint and starts no other: sets spec.suspend. Nothing is lost; what is served
stays served. With --wait, until nothing runs any more.
"""
RESUME = """\
Goes on where `ippo suspend` stopped: sets spec.suspend to false. With --wait, until the operator has taken it up.
"""
RETRY = """\
Has the stage that stalled, or the roll-out that failed, tried once more, after you mended what it failed of: a bucket
that was missing, keys, a log, a quota.
Raises spec.retries.requested by one. What is done stays done. With --wait, until the operator has taken it up.

A run in a folder goes on from there at once, as with `ippo run`.
"""
_STOP = "Ctrl-C stops its runner at the next checkpoint, and the same ippo run goes on"
_GO_ON = "what was stopped with Ctrl-C goes on with ippo run -f RUN.yaml --out {run}"
_WAIT_SECONDS = 600


def _answer(name: str, about: str) -> Verb:
    examples = f"examples:\n  ippo {name} sales\n  ippo {name} sales 3\n  ippo {name} runs/shop\n"
    return Verb(name, __name__, f"{name} the candidate that waits for you", about, examples, folder=True, cluster=True)


def _switch(name: str, summary: str, about: str, folder: bool = False, instead: str = "") -> Verb:
    examples = f"examples:\n  ippo {name} sales --wait\n" + (f"  ippo {name} runs/demo\n" if folder else "")
    return Verb(name, __name__, summary, about, examples, folder=folder, cluster=True, instead=instead)


ANSWERS = (_answer("approve", APPROVE), _answer("reject", REJECT))
SWITCHES = (
    _switch("suspend", "pause a run at its next checkpoint", SUSPEND, instead=_STOP),
    _switch("resume", "go on with a run that was suspended", RESUME, instead=_GO_ON),
    _switch("retry", "try the stage that stalled, or the roll-out that failed, once more", RETRY, folder=True),
)
VERBS = ANSWERS + SWITCHES


def add_arguments(verb: Verb, parser: ArgumentParser) -> None:
    """What it takes."""
    if verb in SWITCHES:
        parser.add_argument("--wait", action="store_true", help="until it is so")
        parser.add_argument(
            "--timeout",
            type=at_least(0),
            default=_WAIT_SECONDS,
            metavar="S",
            help=f"seconds of --wait; exit code 75 (default: {_WAIT_SECONDS})",
        )
    add_run(parser, verb)
    if verb in ANSWERS:
        parser.add_argument(
            "iteration", nargs="?", type=at_least(0), metavar="ITERATION", help="by default, what waits"
        )

"""`ippo run`: the whole cycle on this machine."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, add_manifest

ABOUT = """\
Runs the loop with processes of this machine. All of the run is in one folder: the run itself, its status, logs of
every stage, artifacts, and a report at the end.

Ctrl-C saves a checkpoint and stops; the same command resumes, also after a crash or a power cut. A run that is done
goes on if spec.iterations.max is raised. Other parts of the spec cannot change once the run has started.
"""
EXAMPLES = "example:\n  ippo run -f examples/sr-funnel.yaml --out runs/demo\n"
VERB = Verb("run", __name__, "run the loop on this machine, or resume it", ABOUT, EXAMPLES, folder=True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_manifest(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's folder; made if it is not there")
    parser.add_argument(
        "--keys",
        metavar="FILE",
        help="API keys of the gateway of a live run, in place of spec.gateway.keysSecretName: lines of a "
        "name, scopes (chat, events, erase) and a key",
    )

"""`ippo serve`: talk to the policy of a run in a folder."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb, add_run, at_least

ABOUT = """\
An OpenAI-compatible server with the current policy of a run, until Ctrl-C. Prompts are made as in training, and
responses are cut where the run cuts them.

  curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "hello"}]}'

With --log, what is suggested is written into the run's artifacts, as spec.serve.log does in a cluster; a later run
learns from it by collect.history.

In a cluster, spec.serve does this for each promoted policy.
"""
EXAMPLES = "examples:\n  ippo serve runs/demo\n  ippo serve runs/demo --iteration 2 --port 8001 --log\n"
VERB = Verb("serve", __name__, "talk to the policy of a run on this machine", ABOUT, EXAMPLES, folder=True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_run(parser, VERB)
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
    parser.add_argument(
        "--log",
        action="store_true",
        help="log suggestions into artifacts/served of the run's folder, or of its bucket (default: where "
        "spec.serve.log is set)",
    )

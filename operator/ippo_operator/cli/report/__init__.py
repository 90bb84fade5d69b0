"""`ippo report`: the run as one HTML file."""

from argparse import ArgumentParser

from ippo_operator.cli.bucket_flags import add_bucket_flags
from ippo_operator.cli.parsing import Verb, add_run

ABOUT = """\
Writes the run's report: one HTML file that needs no network. Of a run in a cluster it reads the run's small result
files from its bucket, with your own AWS credentials (environment, profile) or with those of the run's Secret.
"""
EXAMPLES = """\
examples:
  ippo report sales                                          writes sales-report.html
  ippo report sales --out /tmp/r.html --credentials-from-secret
  ippo report sales --endpoint-url http://127.0.0.1:9000     through kubectl port-forward
  ippo report runs/demo                                      a run on this machine
"""
SUMMARY = "write the run's report: one HTML file that needs no network"
VERB = Verb("report", __name__, SUMMARY, ABOUT, EXAMPLES, folder=True, cluster=True)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    add_run(parser, VERB)
    parser.add_argument("--out", metavar="FILE", help="where to (default: NAME-report.html, or DIR/report.html)")
    add_bucket_flags(parser)

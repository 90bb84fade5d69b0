"""The command line of the verbs for runs in a cluster; `status` and `report` take folders, too."""

import argparse

from ippo_trainer.contract.stages import NAMES

from ippo_operator.cli.cluster_flags import add_flags
from ippo_operator.cli.parsers import Commands, add, add_manifest, at_least

_STATUS = """\
Where a run is: what it does or waits for, how far the running stage is, its iterations, what is served, and what went
wrong last, with the remedy. Without a name: all runs of the namespace.

An argument with a / in it, or the name of a folder that is there, is a run on this machine.
"""
_STATUS_EXAMPLES = """\
examples:
  ippo status                 the runs of the current namespace
  ippo status -A              of all namespaces
  ippo status sales           one run
  ippo status sales --watch   live, until it ends; exit code 0 if it succeeded, 1 if it stalled
  ippo status sales --json
  ippo status runs/demo       a run on this machine
"""
_LOGS = """\
The log of the stage that runs, or ran last. With --follow it goes on to each following stage until the run ends.
What is said about the log goes to standard error, so that standard output is the log alone.

Logs are those of the pods: they go with them, after spec.cleanup. Those of a run in a folder stay there.
"""
_LOGS_EXAMPLES = """\
examples:
  ippo logs sales -f                           all stages from now on
  ippo logs sales --previous                   of the attempt that failed last
  ippo logs sales --stage fit-q --iteration 2
  ippo logs sales --stage collect --shard 3    of one of several pods
  ippo logs runs/demo -f                       a run on this machine
"""
_APPROVE = """\
Lets the candidate that waits become the current policy: sets spec.promotion.approve. Prints the figures first. Only for
runs with spec.promotion.mode Manual. An answer is final.

With ITERATION, an answer can also be given before the candidate is there; it counts if the gate lets it pass.
"""
_REJECT = """\
Keeps the policy before the candidate that waits: sets spec.promotion.reject. Prints the figures first. Only for runs
with spec.promotion.mode Manual. An answer is final.

With ITERATION, an answer can also be given before the candidate is there.
"""
_SUSPEND = """\
Stops the running stage at its next checkpoint and starts no other: sets spec.suspend. Nothing is lost; what is served
stays served. With --wait, until nothing runs any more.
"""
_RESUME = """\
Goes on where `ippo suspend` stopped: sets spec.suspend to false. With --wait, until the operator has taken it up.
"""
_RETRY = """\
Has the stage that stalled, or the roll-out that failed, tried once more, after you mended what it failed of: a bucket
that was missing, keys, a log, a quota.
Raises spec.retries.requested by one. What is done stays done. With --wait, until the operator has taken it up.

A run in a folder goes on from there at once, as with `ippo run`.
"""
_REPORT = """\
Writes the run's report: one HTML file that needs no network. Of a run in a cluster it reads the run's small result
files from its bucket, with your own AWS credentials (environment, profile) or with those of the run's Secret.
"""
_REPORT_EXAMPLES = """\
examples:
  ippo report sales                                          writes sales-report.html
  ippo report sales --out /tmp/r.html --credentials-from-secret
  ippo report sales --endpoint-url http://127.0.0.1:9000     through kubectl port-forward
  ippo report runs/demo                                      a run on this machine
"""
_DIFF = """\
What `kubectl apply -f RUN.yaml` would change of the run in the cluster: each field, its value now and then, and whether
a run that has started may change it. Nothing is written; the API server is asked with a dry run.

exit codes: 0 no difference, 1 some, 64 the API server would refuse it
"""
_EXPLAIN = """\
Reasons of conditions and failures in words: what they mean, what to do, and whether they heal by themselves.
"""
_EXPLAIN_EXAMPLES = """\
examples:
  ippo explain                  all reasons
  ippo explain Unschedulable    one of them
  ippo explain sales            those that a run in the cluster gives now
"""


def add_cluster(commands: Commands) -> None:
    """status, report, logs, approve, reject, suspend, resume, retry, diff, explain."""
    _add_status(commands)
    _add_report(commands)
    _add_logs(commands)
    _add_answers(commands)
    _add_switches(commands)
    _add_diff(commands)
    _add_explain(commands)


def _add_place(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    parser.set_defaults(in_cluster=True)


def _add_run_name(parser: argparse.ArgumentParser, folders: bool = False) -> None:
    if folders:
        parser.add_argument("run", metavar="NAME|DIR", help="a run in a cluster, or a run's folder")
    else:
        parser.add_argument("run", metavar="NAME", help="of the run")
    _add_place(parser)


def _add_status(commands: Commands) -> None:
    parser = add(commands, "status", "status", "where a run is, or all runs", _STATUS, _STATUS_EXAMPLES)
    parser.add_argument("run", nargs="?", metavar="NAME|DIR", help="a run in a cluster, or a run's folder")
    parser.add_argument(
        "-A",
        "--all-namespaces",
        action="store_true",
        default=argparse.SUPPRESS,
        help="list the runs of all namespaces",
    )
    parser.add_argument("-w", "--watch", action="store_true", help="live, until the run ends")
    parser.add_argument("--json", action="store_true", help="for programs")
    _add_place(parser)


def _add_report(commands: Commands) -> None:
    summary = "write the run's report: one HTML file that needs no network"
    parser = add(commands, "report", "report", summary, _REPORT, _REPORT_EXAMPLES)
    parser.add_argument("run", metavar="NAME|DIR", help="a run in a cluster, or a run's folder")
    parser.add_argument("--out", metavar="FILE", help="where to (default: NAME-report.html, or DIR/report.html)")
    parser.add_argument("--endpoint-url", metavar="URL", help="of the S3 store, where it differs from the pods'")
    parser.add_argument(
        "--credentials-from-secret", action="store_true", help="use those of spec.artifacts.s3.credentialsSecretName"
    )
    _add_place(parser)


def _add_logs(commands: Commands) -> None:
    parser = add(commands, "logs", "logs", "the log of the stage that runs", _LOGS, _LOGS_EXAMPLES)
    parser.add_argument("-f", "--follow", action="store_true", help="stay, also over stages, until the run ends")
    parser.add_argument("--stage", choices=NAMES, help="by default, the one that runs or ran last")
    parser.add_argument("--iteration", type=at_least(0), metavar="I", help="by default, the latest with that stage")
    parser.add_argument("--attempt", type=at_least(0), metavar="N", help="by default, the latest")
    parser.add_argument(
        "--shard", type=at_least(0), metavar="K", help="of stages with several pods (default: the first)"
    )
    parser.add_argument("--previous", action="store_true", help="of the attempt that failed last")
    parser.add_argument("--tail", type=at_least(0), metavar="N", help="only the last N lines")
    _add_run_name(parser, folders=True)


def _add_answers(commands: Commands) -> None:
    for verb, about in (("approve", _APPROVE), ("reject", _REJECT)):
        summary = f"{verb} the candidate that waits for you"
        examples = f"examples:\n  ippo {verb} sales\n  ippo {verb} sales 3\n"
        parser = add(commands, verb, "remote.decide", summary, about, examples)
        _add_run_name(parser)
        parser.add_argument(
            "iteration", nargs="?", type=at_least(0), metavar="ITERATION", help="by default, what waits"
        )


def _add_switches(commands: Commands) -> None:
    for verb, summary, about in (
        ("suspend", "pause a run at its next checkpoint", _SUSPEND),
        ("resume", "go on with a run that was suspended", _RESUME),
        ("retry", "try the stage that stalled, or the roll-out that failed, once more", _RETRY),
    ):
        examples = f"examples:\n  ippo {verb} sales --wait\n"
        local = verb == "retry"
        module, examples = ("retry", f"{examples}  ippo retry runs/demo\n") if local else ("remote.decide", examples)
        parser = add(commands, verb, module, summary, about, examples)
        parser.add_argument("--wait", action="store_true", help="until it is so")
        parser.add_argument(
            "--timeout",
            type=at_least(0),
            default=600,
            metavar="S",
            help="seconds of --wait; exit code 75 (default: 600)",
        )
        _add_run_name(parser, folders=local)


def _add_diff(commands: Commands) -> None:
    summary = "what kubectl apply would change of a run, and whether it may"
    parser = add(commands, "diff", "remote.diff", summary, _DIFF, "example:\n  ippo diff -f RUN.yaml\n")
    add_manifest(parser)
    _add_place(parser)


def _add_explain(commands: Commands) -> None:
    summary = "what a reason means and what to do"
    parser = add(commands, "explain", "remote.explain", summary, _EXPLAIN, _EXPLAIN_EXAMPLES)
    parser.add_argument("topic", nargs="?", metavar="REASON|NAME", help="a reason, or a run in a cluster")
    _add_place(parser)

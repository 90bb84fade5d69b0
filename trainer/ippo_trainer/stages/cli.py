"""`ippo-stage`: one stage of one iteration, as a command."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ippo_trainer.contract.command_line import POD_LOG, Parser
from ippo_trainer.contract.stages import COLLECT, NAMES, STAGES
from ippo_trainer.contract.variables import COMPLETION_INDEX, SERVICE_HOST, TERMINATION_LOG

_HELP = """\
Runs one stage of one iteration of Iterative PPO, as its spec says, and publishes its result.

stages:
"""
_STAGES = "".join(f"  {stage.name:12} {stage.summary}\n" for stage in STAGES)
_MORE = """\
A spec is JSON; `ippo run` and the operator write it. It names the inputs by key and digest, and the store:
a directory or an S3 prefix. Artifacts are published first and result.json last, so a result means that all is there.
The result is also printed, and written to the termination log.

A stage that is done already prints its result and ends with 0. Ctrl-C or SIGTERM saves a checkpoint; the same
command resumes from it.

exit codes:
  0    done
  64   the spec is wrong (also: no access to the store); the line says which field and what to do
  65   an input is wrong: damaged artifact, unusable log or model
  75   try again: the store does not answer, a disk is full
  143  told to stop, checkpoint saved
  1    anything else; the traceback is on standard error

S3 credentials come from where boto3 finds them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
AWS_SHARED_CREDENTIALS_FILE, or the pod's role. They are never printed.

example:
  ippo-stage fit-q --spec spec.json --work-dir /scratch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    # The stages need not be importable to see the help.
    from ippo_trainer.stages.runtime import run_stage

    shard = arguments.shard_index
    if shard is None and arguments.stage == COLLECT:
        shard = _completion_index(os.environ)
    log = arguments.termination_log or _termination_log(os.environ)
    return run_stage(arguments.spec, shard, log, arguments.work_dir, stage=arguments.stage)


def command() -> NoReturn:
    """`main` as a process of its own, which ends in bounded time."""
    code = main()
    from ippo_trainer.stages.ending import bounded

    sys.exit(bounded(code))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ippo-stage",
        description=_HELP + _STAGES,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=NAMES, metavar="STAGE", help="one of the stages above")
    parser.add_argument("--spec", type=Path, required=True, metavar="FILE", help="the stage spec, JSON")
    parser.add_argument(
        "--shard-index", type=int, metavar="N", help="shard of collect, from 0 (default: $JOB_COMPLETION_INDEX)"
    )
    parser.add_argument(
        "--termination-log",
        type=Path,
        metavar="FILE",
        help=f"where the result or the error goes, at most 3 KiB (default: $IPPO_TERMINATION_LOG, in a pod {POD_LOG})",
    )
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="where temporary files go (default: the system's folder for them)"
    )
    return parser


def _completion_index(environ: Mapping[str, str]) -> int | None:
    text = environ.get(COMPLETION_INDEX, "")
    return int(text) if text.isdecimal() else None


def _termination_log(environ: Mapping[str, str]) -> Path | None:
    if environ.get(TERMINATION_LOG):
        return Path(environ[TERMINATION_LOG])
    in_pod = SERVICE_HOST in environ
    return Path(POD_LOG) if in_pod and os.access(POD_LOG, os.W_OK) else None


if __name__ == "__main__":
    command()

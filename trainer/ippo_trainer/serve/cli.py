"""`ippo-serve`: a policy as an OpenAI-compatible server."""

import argparse
import asyncio
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ippo_trainer.contract.command_line import Parser
from ippo_trainer.contract.digests import DIGEST
from ippo_trainer.contract.errors import BadSpecError, StageError
from ippo_trainer.contract.params import EngineName
from ippo_trainer.contract.variables import POLICY_DIGEST
from ippo_trainer.http.arguments import add_end, add_origins, place, positive
from ippo_trainer.logs.secrets import Redactor
from ippo_trainer.logs.stderr import logging_to_stderr

_HELP = """\
Serves a policy over an OpenAI-compatible API: /v1/chat/completions (streaming too), /v1/models,
and /healthz, /readyz, /metrics. IPPO_POLICY_DIGEST names the policy's digest.

Messages of role user are the customer's, those of role assistant the business's. Prompts are made as in training.
"""
_MORE = """\
SIGTERM: /readyz says 503, what has come and what still comes on open connections is answered, then it ends with 0.

exit codes:
  0   told to end
  64  a wrong argument, or an engine that is not installed
  65  the policy is missing, damaged, or too large for the memory
  1   anything else; the traceback is on standard error

example:
  IPPO_POLICY_DIGEST=sha256:… ippo-serve --policy policy/ --port 8000 --engine Transformers --name demo
  … --log s3://shop/served
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    with logging_to_stderr(Redactor()):
        try:
            return _serve(arguments)
        except StageError as error:
            logging.getLogger(__name__).error("%s", error)
            return error.exit_code
        except Exception:
            logging.getLogger(__name__).exception("the server failed unexpectedly")
            return StageError.exit_code


def _serve(arguments: argparse.Namespace) -> int:
    from ippo_trainer.serve.server import serve
    from ippo_trainer.serve.settings import ServerSettings

    digest = os.environ.get(POLICY_DIGEST, "")
    if not re.fullmatch(DIGEST, digest):
        raise BadSpecError(
            f"{POLICY_DIGEST} is {digest!r}, not the digest of a policy", f"Set {POLICY_DIGEST}=sha256:…."
        )
    settings = ServerSettings(
        arguments.policy,
        arguments.engine,
        arguments.max_tokens,
        arguments.max_waiting,
        digest,
        arguments.name,
        tuple(arguments.allow_origin),
        arguments.log,
    )
    seconds = arguments.linger_seconds, arguments.grace_seconds
    return asyncio.run(serve(settings, arguments.port, *seconds, arguments.address))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ippo-serve", description=_HELP, epilog=_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, required=True, metavar="DIR", help="folder of a policy artifact")
    parser.add_argument("--port", type=int, required=True, metavar="N", help="where to listen; 0 takes a free port")
    parser.add_argument(
        "--address", default="", metavar="IP", help="where to listen, such as 127.0.0.1 (default: all addresses)"
    )
    parser.add_argument(
        "--engine", choices=get_args(EngineName), required=True, help="VLLM, or Transformers for small models and CPUs"
    )
    parser.add_argument("--name", required=True, metavar="RUN", help="the run's name, another name of the model")
    parser.add_argument(
        "--max-tokens",
        type=positive,
        default=512,
        metavar="N",
        help="where responses are cut, whatever a request asks for (default: %(default)s)",
    )
    parser.add_argument(
        "--max-waiting",
        type=positive,
        default=256,
        metavar="N",
        help="requests that may wait; further ones get 429 (default: %(default)s)",
    )
    add_origins(parser)
    parser.add_argument(
        "--log",
        type=place,
        metavar="URI",
        help="write every suggestion, with its conversation, tokens, log-probabilities and the policy's digest, into "
        "segments in this folder: file:///dir, s3://bucket/prefix, or a store as JSON; collect.history reads them",
    )
    add_end(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

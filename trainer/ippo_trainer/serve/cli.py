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

from pydantic import ValidationError

from ippo_trainer.contract.command_line import Parser
from ippo_trainer.contract.digests import DIGEST
from ippo_trainer.contract.errors import BadSpecError, StageError
from ippo_trainer.contract.origins import ORIGIN
from ippo_trainer.contract.params import EngineName
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.contract.variables import POLICY_DIGEST
from ippo_trainer.store.uri import location_of

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
    # The engines need not be importable to see the help.
    from ippo_trainer.stages.output import Redactor, logging_to_stderr

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
    return asyncio.run(serve(settings, arguments.port, arguments.linger_seconds, arguments.grace_seconds))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ippo-serve", description=_HELP, epilog=_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, required=True, metavar="DIR", help="folder of a policy artifact")
    parser.add_argument("--port", type=int, required=True, metavar="N", help="where to listen; 0 takes a free port")
    parser.add_argument(
        "--engine", choices=get_args(EngineName), required=True, help="VLLM, or Transformers for small models and CPUs"
    )
    parser.add_argument("--name", required=True, metavar="RUN", help="the run's name, another name of the model")
    parser.add_argument(
        "--max-tokens",
        type=_positive,
        default=512,
        metavar="N",
        help="where responses are cut, whatever a request asks for (default: %(default)s)",
    )
    parser.add_argument(
        "--max-waiting",
        type=_positive,
        default=256,
        metavar="N",
        help="requests that may wait; further ones get 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        type=_origin,
        default=[],
        metavar="ORIGIN",
        help="pages of this origin may ask from a browser (CORS), e.g. https://shop.example; '*' for all; may be given "
        "several times (default: none)",
    )
    parser.add_argument(
        "--log",
        type=_place,
        metavar="URI",
        help="write every suggestion, with its conversation, tokens, log-probabilities and the policy's digest, into "
        "segments in this folder: file:///dir, s3://bucket/prefix, or a store as JSON; collect.history reads them",
    )
    parser.add_argument(
        "--linger-seconds",
        type=float,
        default=3.0,
        metavar="S",
        help="after SIGTERM, how long requests on open connections are still taken (default: %(default)s)",
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=50.0,
        metavar="S",
        help="after SIGTERM, when it ends at the latest (default: %(default)s)",
    )
    return parser


def _origin(text: str) -> str:
    if not re.fullmatch(ORIGIN, text):
        raise argparse.ArgumentTypeError(f"{text} is no origin; write https://host or https://host:port, or '*'")
    return text


def _place(text: str) -> StoreLocation:
    """The folder that `--log` names."""
    try:
        return StoreLocation.model_validate_json(text) if text.lstrip().startswith("{") else location_of(text, "--log")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise argparse.ArgumentTypeError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except BadSpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())

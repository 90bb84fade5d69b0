"""`ippo-gateway`: HTTP in front of policy servers, which logs what happens."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ippo_trainer.contract.command_line import Parser
from ippo_trainer.contract.errors import StageError
from ippo_trainer.gateway.admission import GatewayLimits
from ippo_trainer.gateway.settings import GatewaySettings
from ippo_trainer.http.arguments import add_end, add_origins, place, positive
from ippo_trainer.logs.secrets import Redactor
from ippo_trainer.logs.stderr import logging_to_stderr

_SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter from others: whoever waits for the journal's thread waits so long several
times. Python's own 5 ms are more than many a disk takes."""
_HELP = """\
Stands in front of the policy servers of a run and logs what becomes of conversations: an application changes one URL.

For applications: /v1/chat/completions (streaming too), /v1/models, reactions, outcomes, complaints, /openapi.json, and
at / a page for people. For the operator, on a port of its own: /v1/live, /metrics. /healthz and /readyz on both.
"""
_MORE = """\
Nobody is answered before what he said is on the disk of --journal; from there it goes to --log. The folder belongs to
one gateway at a time, which goes on with what the last one left there.

SIGTERM: /readyz says 503, what has come and what still comes on open connections is answered, the journal goes to the
store, then it ends with 0.

a file of routes:
  {"run": "demo", "active": {"digest": "sha256:…", "url": "http://localhost:8000"},
   "idle": "30m", "outcomeWindow": "7d"}

a file of keys:
  # name  scopes       key                       ids that it may name begin with (optional)
  shop    chat,events  1f0c8a7be1d94c3f9a55e5f0
  crm     events       9b1d07f2a6c84f7fb1c2f1aa

exit codes:
  0   told to end
  64  a wrong argument, a port that is taken, a journal that another process has
  65  a file of routes or keys that cannot be read
  75  a disk that is full or fails
  1   anything else; the traceback is on standard error

example:
  ippo-gateway --routes routes.json --journal journal/ --log file:///data/live --port 8080 --internal-port 8081
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with logging_to_stderr(Redactor()):
        try:
            from ippo_trainer.gateway.process import serve

            return asyncio.run(serve(_settings(arguments)))
        except StageError as error:
            logging.getLogger(__name__).error("%s", error)
            return error.exit_code
        except Exception:
            logging.getLogger(__name__).exception("the gateway failed unexpectedly")
            return StageError.exit_code


def _settings(arguments: argparse.Namespace) -> GatewaySettings:
    return GatewaySettings(
        arguments.routes,
        arguments.journal,
        arguments.log,
        arguments.port,
        arguments.internal_port,
        arguments.keys,
        tuple(arguments.allow_origin),
        tuple(arguments.redact),
        arguments.journal_bytes,
        arguments.linger_seconds,
        arguments.grace_seconds,
        GatewayLimits(requests=arguments.max_waiting),
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ippo-gateway", description=_HELP, epilog=_MORE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--routes",
        type=Path,
        required=True,
        metavar="FILE",
        help="which policies answer and where, as JSON; read again when it changes",
    )
    parser.add_argument(
        "--journal",
        type=Path,
        required=True,
        metavar="DIR",
        help="a folder of this gateway's own, for events that are not in the store yet",
    )
    parser.add_argument(
        "--log",
        type=place,
        required=True,
        metavar="URI",
        help="the folder that events go to in the end: file:///dir, s3://bucket/prefix, or a store as JSON",
    )
    parser.add_argument(
        "--port", type=int, required=True, metavar="N", help="where applications ask; 0 takes a free port"
    )
    parser.add_argument(
        "--internal-port", type=int, required=True, metavar="N", help="where the operator asks; 0 takes a free port"
    )
    parser.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="API keys; read again when it changes (default: whoever reaches the gateway may ask and report)",
    )
    parser.add_argument(
        "--redact",
        action="append",
        default=[],
        metavar="WHAT",
        help="what is replaced in everything before it is written: Email, Phone, CardNumber, or module:function, text "
        "to text; may be given several times",
    )
    add_origins(parser)
    parser.add_argument(
        "--max-waiting",
        type=positive,
        default=GatewayLimits.requests,
        metavar="N",
        help="requests that may be under way; further ones get 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--journal-bytes",
        type=positive,
        default=GatewaySettings.journal_bytes,
        metavar="N",
        help="bytes of events that are not in the store yet; beyond, events get 503 (default: %(default)s)",
    )
    add_end(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())

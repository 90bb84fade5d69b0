"""Arguments that servers have in common, and their types."""

import argparse
import re

from pydantic import ValidationError

from ippo_trainer.contract import wrong
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.contract.origins import ORIGIN
from ippo_trainer.contract.spec import StoreLocation
from ippo_trainer.store.uri import location_of


def add_origins(parser: argparse.ArgumentParser) -> None:
    """`--allow-origin`."""
    parser.add_argument(
        "--allow-origin",
        action="append",
        type=_origin,
        default=[],
        metavar="ORIGIN",
        help="pages of this origin may ask from a browser (CORS), e.g. https://shop.example; '*' for all; may be given "
        "several times (default: none)",
    )


def add_end(parser: argparse.ArgumentParser) -> None:
    """`--linger-seconds` and `--grace-seconds`: how a server ends."""
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


def place(text: str) -> StoreLocation:
    """A folder: a URI, or a store as JSON."""
    try:
        return (
            StoreLocation.model_validate_json(text)
            if text.lstrip().startswith("{")
            else location_of(text, "the folder")
        )
    except ValidationError as error:
        where, problem = wrong.problems(error)[0]
        raise argparse.ArgumentTypeError(f"{where or 'the store'} {problem}") from error
    except BadSpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _origin(text: str) -> str:
    if not re.fullmatch(ORIGIN, text):
        raise argparse.ArgumentTypeError(f"{text} is no origin; write https://host or https://host:port, or '*'")
    return text

"""JSON as clients send it, and what is wrong with it in words."""

import json
import sys
from typing import Any, NoReturn

from ippo_trainer.http.errors import RequestError

TOO_DEEP = "the body is not JSON that can be read: lists and objects are too deep"


def json_of(body: bytes) -> Any:
    """The value in a body, without NaN and infinities. Raises RequestError, 400, that says why there is none."""
    try:
        return json.loads(body, parse_constant=_no_number, parse_int=_whole)
    except RecursionError as error:
        raise RequestError(400, TOO_DEEP) from error
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > sys.int_info.default_max_str_digits:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)

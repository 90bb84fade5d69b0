"""API keys: who may do what.

A line of the file is a name, its scopes joined by commas, and the key, with blanks between. A fourth word binds the
key: ids of conversations and customers that it names have to begin with it. What follows a # at a line's beginning is
for people.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from aiohttp import hdrs

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.http.errors import RequestError

Scope = Literal["chat", "events", "erase"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SHORTEST = 16
"""Characters of a key: shorter ones can be guessed."""
_MOST = 1000
_BEARER = "bearer "
_FORMAT = "Write a name, scopes joined by commas (chat, events, erase) and the key, one key a line."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    name: str
    """Of the key; empty where none is asked for."""
    scopes: frozenset[str]
    prefix: str = ""
    """Of all ids that it may name."""

    def check_owns(self, identifier: str, field: str) -> None:
        """Raises RequestError, 403, for an id that is another's."""
        if not identifier.startswith(self.prefix):
            raise RequestError(403, f"{field}: this API key may not name {identifier!r}", field, "not_yours")


ANYBODY = Caller("", frozenset(SCOPES))
"""Where there are no keys."""


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


class Keys:
    """The keys of a file. The keys themselves are not kept, only their digests.

    Args:
        keys: by line.
    """

    def __init__(self, keys: Sequence[_Key]) -> None:
        self._keys = tuple(keys)

    def caller(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        """Who asks. Takes as long for a key that is nearly right as for any other.

        Raises:
            RequestError: 401 without a key or with an unknown one, 403 for one without the scope.
        """
        header = headers.get(hdrs.AUTHORIZATION, "")
        if not header.lower().startswith(_BEARER):
            raise RequestError(401, "there is no API key: send Authorization: Bearer KEY", code="no_api_key")
        digest = _digest(header[len(_BEARER) :].strip())
        callers = [key.caller for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if not callers:
            raise RequestError(401, "this API key is not known", code="invalid_api_key")
        if scope not in callers[0].scopes:
            raise RequestError(403, f"this API key lacks the scope {scope}", code="scope")
        return callers[0]


class OpenGate(Keys):
    """No keys: whoever reaches the gateway may do everything."""

    def __init__(self) -> None:
        super().__init__(())

    def caller(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        """Anybody."""
        return ANYBODY


def read_keys(text: str) -> Keys:
    """The keys of a file's text.

    Raises:
        BadDataError: names the line, never what stands in it.
    """
    keys: list[_Key] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            keys.append(_key(number, words))
    if not keys:
        raise BadDataError("the file of API keys has none", _FORMAT)
    if len(keys) > _MOST:
        raise BadDataError(f"the file of API keys has {len(keys)}", f"At most {_MOST} are read.")
    for values, what in (([key.digest for key in keys], "key"), ([key.caller.name for key in keys], "name")):
        if len(set(values)) < len(values):
            raise BadDataError(f"the file of API keys has a {what} twice", f"Give every line a {what} of its own.")
    return Keys(keys)


def _key(number: int, words: list[str]) -> _Key:
    where = f"line {number} of the file of API keys"
    if not 3 <= len(words) <= 4:
        raise BadDataError(f"{where} has {len(words)} words", _FORMAT)
    name, scopes, key, *prefix = words
    unknown = set(scopes.split(",")) - set(SCOPES)
    if unknown:
        raise BadDataError(f"{where}: its scopes are not all known", f"Use {', '.join(SCOPES)}, joined by commas.")
    if len(key) < _SHORTEST or not key.isascii():
        raise BadDataError(
            f"{where}: its key is too short or not ASCII",
            f"Use {_SHORTEST} random characters or more: openssl rand -hex 24.",
        )
    return _Key(_digest(key), Caller(name, frozenset(scopes.split(",")), "".join(prefix)))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()

"""Which tokens end a suggestion: what a model's files say, read and written in one place.

`generation_config.json` and `config.json` hold an id or a list of them, the tokenizer its EOS token; what the chat
template puts after an answer comes to these (`text.answers`). Samplers, training, evaluation and both serving engines
stop at all of them, and a saved policy names all of them, so that stock tools stop there too.
"""

import json
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError

_GENERATION = "generation_config.json"
_FILES = (_GENERATION, "config.json")
_FIELD = "eos_token_id"


def attach(tokenizer: Any, directory: Path) -> None:
    """Lets `of` know what the model's files in a directory say. BadDataError where one holds no token id."""
    read = {end for name in _FILES for end in _read(directory / name)}
    # An id beyond the vocabulary, such as a default that nobody set, can never be sampled.
    tokenizer.ippo_ends = frozenset(end for end in read if end < len(tokenizer))


def of(tokenizer: Any) -> frozenset[int]:
    """Tokens that end whatever the model says: those of its files and the tokenizer's EOS."""
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return frozenset(getattr(tokenizer, "ippo_ends", ())).union(own)


def write(directory: Path, ends: frozenset[int]) -> None:
    """Lets `generation_config.json` name all of them; other fields, and a file that says the same, stay as they are."""
    path = directory / _GENERATION
    if not path.is_file() or frozenset(_read(path)) == ends:
        return
    value = json.loads(path.read_text("utf-8"))
    value[_FIELD] = sorted(ends) if len(ends) > 1 else min(ends)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")


def _read(path: Path) -> list[int]:
    if not path.is_file():
        return []
    try:
        value = json.loads(path.read_text("utf-8")).get(_FIELD)
    except (OSError, ValueError, AttributeError) as error:
        raise BadDataError(f"{path.name} is not a JSON object: {error}", "Fetch the model again.") from error
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(end, int) and not isinstance(end, bool) and end >= 0 for end in ends):
        raise BadDataError(
            f"{_FIELD} in {path.name} is {str(value)[:80]}", "Write a token's id, or a list of them, or leave it out."
        )
    return ends

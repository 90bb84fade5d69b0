"""A model that is lent to trl and comes back as it was: its configs, its forward, whether it trains."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def lent(model: Any, stop_ids: Iterable[int], pad_id: int) -> Iterator[Any]:
    """Inside, generation of a causal LM stops at exactly these tokens, and trl may hang its head on it.

    trl puts its loss into `forward`, writes special tokens and `use_cache` into the configs, and a tag onto the model;
    none of it may reach the policy that is published.
    """
    own, config = vars(model).copy(), vars(model.config).copy()
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = sorted(stop_ids)
    model.generation_config.pad_token_id = pad_id
    try:
        yield model
    finally:
        for mine, values in ((vars(model), own), (vars(model.config), config)):
            mine.clear()
            mine.update(values)
        model.train(model.training)

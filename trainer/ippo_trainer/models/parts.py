"""The two parts of a causal LM or of a Q model: the trunk and the last linear map."""

from typing import Any

from torch import nn

from ippo_trainer.contract.errors import BadDataError


def decoder(model: Any) -> Any:
    """The trunk of a causal LM or of a Q model: token ids in, `last_hidden_state` out."""
    return getattr(model, model.base_model_prefix)


def head(model: Any) -> Any:
    """The last linear map: hidden states to logits (causal LM) or to one score (Q model)."""
    output = model.get_output_embeddings()
    if output is None:
        output = getattr(model, "score", None)
    if not isinstance(output, nn.Module):
        raise BadDataError(
            f"{type(model).__name__} has no linear head that we know", "Choose a model of the Llama or Qwen families."
        )
    return output

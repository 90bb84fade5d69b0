"""The two parts of a causal LM or of a Q model: the trunk and the last linear map."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models.kernels import HALVES, product


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


def score(output: Any, states: Tensor) -> Tensor:
    """As `logits`, differentiable in any case; for heads with few outputs."""
    if states.dtype not in HALVES:
        result: Tensor = output(states).float()
        return result
    bias = None if output.bias is None else output.bias.float()
    return functional.linear(states.float(), output.weight.float(), bias)


def logits(output: Any, states: Tensor) -> Tensor:
    """(n, outputs) fp32 of a head, from states (n, D); sums of 16-bit products are not rounded to 16 bits.

    Differentiable on a CPU, and where nothing has 16 bits.
    """
    if states.dtype not in HALVES or type(output) is not nn.Linear:
        result: Tensor = output(states).float()
        return result
    result = product(states, output.weight.t())
    return result if output.bias is None else result + output.bias.float()

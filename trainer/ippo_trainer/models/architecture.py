"""Whether an architecture can be a policy with a Q, as its config.json says, before anything is loaded."""

from collections.abc import Callable
from typing import Any

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

from ippo_trainer.contract.errors import BadDataError

_FAMILIES = "for example of the Llama, Qwen, Mistral or GPT-2 families."
_OTHERS = ("text_config", "vision_config", "audio_config")
_BY_COLUMN: dict[str, Callable[[Any], bool]] = {
    "attention_layers": lambda kinds: "local" in kinds,  # GPT-Neo
    "keep_window_size": lambda _: True,  # Doge
}
"""Settings of attention that goes by a batch's columns instead of a text's positions. Where the columns are few, as in
a comparison, nothing shows."""
_ATTENTIONS = (None, "eager", "sdpa")


def check_kind(kind: Any, name: str) -> None:
    """Raises BadDataError if no policy, or no Q, can be made of models of a kind that transformers has.

    Args:
        kind: `model_type` in config.json; of one that transformers does not have, loading says more.
        name: of the model's directory, for errors.
    """
    if kind not in CONFIG_MAPPING:
        return
    if kind not in AutoModelForCausalLM._model_mapping._model_mapping:
        raise BadDataError(f"the model in {name} ({kind}) is no causal language model", f"Choose one, {_FAMILIES}")
    if kind not in AutoModelForSequenceClassification._model_mapping._model_mapping:
        raise BadDataError(
            f"transformers has no sequence classifier for the architecture {kind!r} of {name}, which Q would be",
            f"Choose a policy.base with one, {_FAMILIES}",
        )


def check_config(config: Any, name: str) -> None:
    """Raises BadDataError if a transformers config says that its model cannot be a policy.

    Args:
        config: of a kind that `check_kind` takes.
        name: of the model's directory, for errors.
    """
    kind = config.model_type
    if any(getattr(config, other, None) is not None for other in _OTHERS):
        raise BadDataError(
            f"the model in {name} ({kind}) is not for text alone", f"Choose a text-only policy.base, {_FAMILIES}"
        )
    for setting, by_column in _BY_COLUMN.items():
        if hasattr(config, setting) and by_column(getattr(config, setting)):
            raise BadDataError(
                f"the attention of {name} ({kind}: {setting}) goes by the columns of a batch, not by the positions of "
                "a text, so a text's numbers depend on what is run with it",
                f"Choose another policy.base, {_FAMILIES}",
            )
    _check_settings(config, name)


def _check_settings(config: Any, name: str) -> None:
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise BadDataError(
            f"the model in {name} is quantized (quantization_config{f': {method}' if method else ''}), and "
            "such weights cannot be trained",
            "Choose the base from which it was made, or save it dequantized.",
        )
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _ATTENTIONS:
        raise BadDataError(
            f"config.json in {name} asks for attn_implementation {attention!r}, which is not used here",
            "Remove attn_implementation from config.json.",
        )

"""Policies and Q models on disk: safetensors only, no remote code, and nothing that the maths would get wrong."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.utils.logging import disable_progress_bar

from ippo_trainer.contract.defaults import TINY_NAMES, tiny_shape
from ippo_trainer.contract.errors import BadDataError, BadSpecError, StageError
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.models import adapters, kernels, last_layer
from ippo_trainer.models.architecture import check_config, check_kind
from ippo_trainer.models.attention import check_reach, limits
from ippo_trainer.models.files import base_directory, base_of, check_files, read_config
from ippo_trainer.models.parts import decoder, head
from ippo_trainer.models.verify import SHORT, verify, verify_q
from ippo_trainer.text import ends

_TINY_POSITIONS = 4096
CONTEXT = 1024
"""Tokens of a prompt with its suggestion that a base is tried on where nobody says how many there will be."""


class SavesItself(Protocol):
    """What is stored beside a policy, e.g. the renderer with its `prompt.json`."""

    def save(self, directory: Path) -> None:
        """Writes its files into an existing directory."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A causal LM in eval mode without dropout, its tokenizer, and where they came from."""

    model: Any
    tokenizer: Any
    directory: Path


def build_tiny(base: str, tokenizer: Any, seed: int) -> Any:
    """A small randomly initialised Llama for a tokenizer.

    Llama and not Qwen2: for a Qwen2 directory, transformers' AutoTokenizer puts Qwen's own pre-tokenizer in place of
    the one that was saved, so stock tools would read other token ids than the policy was trained on.

    Args:
        base: `tiny:d<width>-l<layers>[-h<heads>]`; heads default to one per 32 dimensions.
        tokenizer: gives the vocabulary's size and the special ids.
        seed: equal seeds give equal weights; torch's global stream is left alone.

    Raises:
        BadSpecError: `base` is no such name, or the width is not an even multiple of the heads.
    """
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = tiny_config(base, len(tokenizer), **special)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        model = LlamaForCausalLM(config)
    return model.eval()


def tiny_config(base: str, vocabulary: int, **special: int | None) -> LlamaConfig:
    """The config of a tiny model, with the ids of special tokens; raises as `build_tiny`."""
    shape = tiny_shape(base)
    if shape is None:
        raise BadSpecError(f"policy.base {base!r} is no tiny model", f"Use {TINY_NAMES}.")
    width, layers, heads = shape
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=-(-8 * width // 96) * 32,  # Llama's 8/3, in whole vectors
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=_TINY_POSITIONS,
        tie_word_embeddings=True,
        **special,
    )


def load_policy(
    directory: Path, device: torch.device | str = "cpu", longest: int | None = None, beside: Any = None
) -> LoadedPolicy:
    """Loads a causal LM and its tokenizer, in fp32, and checks that our forwards agree with the model's own.

    The tokenizer's and the model's padding token are made equal and different from the end token, so that a Q model
    with this trunk pools where it should.

    Args:
        directory: of the model.
        device: where it goes.
        longest: tokens of a prompt with its suggestion, at most, up to which forwards are compared (see
            `verify.verify`); SHORT for what an earlier stage made of a base that was compared; None takes the model's
            context, of which CONTEXT tokens are compared at most.
        beside: a policy that is loaded already; an adapter on the same base shares that with it.

    Raises:
        BadDataError: no safetensors, weights missing, damaged, quantized or of no use, an architecture that needs its
            own code or has no sequence classifier, no EOS token or chat template, an empty tokenizer, logits that are
            not a linear map of the hidden states (soft-caps, logit scales), or forwards that depend on what else is in
            the batch.
    """
    model = _load_causal(directory, beside)
    tokenizer = load_tokenizer(directory)
    size = model.config.vocab_size
    if len(tokenizer) > size:
        raise BadDataError(
            f"the tokenizer in {directory.name} has {len(tokenizer)} tokens, its model {size}",
            "Use the tokenizer that the model was trained with.",
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    model = _on(model, device)
    longest = _longest(model, longest)
    # An adapter on a base that has 16 bits by now: rounding differs by more than a wrong mask, and the model that the
    # base was loaded for has been compared.
    if next(model.parameters()).dtype == torch.float32:
        verify(model, directory.name, longest)
    if longest > SHORT:
        verify_q(model, directory.name)
    _check_saves(directory, model)
    return LoadedPolicy(model, tokenizer, directory)


def save_policy(directory: Path, model: Any, tokenizer: Any, renderer: SavesItself) -> None:
    """Writes a transformers directory that any tool loads, and the renderer's prompt beside it.

    Of a model with an adapter it is the adapter, which names its base.
    """
    directory.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    if adapters.is_adapted(model):
        adapters.save(directory, model)
    else:
        model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    renderer.save(directory)


def new_q(policy_model: Any, seed: int = 0) -> Any:
    """A Q model (one label) whose trunk starts from the policy's; the new head is drawn from `seed`.

    A policy's base is its base, too.

    Raises:
        BadDataError: transformers has no sequence classifier for the architecture.
    """
    if adapters.is_adapted(policy_model):
        return adapters.trainable(_adapted_q(adapters.copied(decoder(policy_model)), policy_model.config, seed))
    config = copy.deepcopy(policy_model.config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        try:
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise BadDataError(
                f"transformers has no sequence classifier for the architecture {config.model_type!r}",
                "Choose a policy.base with one, for example of the Llama, Qwen or GPT-2 families.",
            ) from error
    decoder(model).load_state_dict(decoder(policy_model).state_dict())
    return _on(model, next(policy_model.parameters()).device).eval()


def load_q(directory: Path, device: torch.device | str = "cpu", beside: Any = None) -> Any:
    """Loads a Q model in fp32, with its last layer if it has one.

    Args:
        directory: of the model.
        device: where it goes.
        beside: as of `load_policy`.

    Raises:
        BadDataError: as `load_policy` does, where it has not exactly one label, or a last layer that does not fit.
    """
    base = base_of(directory)
    if base is not None:
        causal = _base_model(directory, base, beside)
        model = adapters.load(directory, _adapted_q(decoder(causal), causal.config, 0))
        last_layer.attach(model, last_layer.load(directory, model.config.hidden_size))
        return _on(model, device)
    model = _load(AutoModelForSequenceClassification, directory)
    if model.config.num_labels != 1:
        raise BadDataError(
            f"the model in {directory.name} has {model.config.num_labels} labels, a Q model has one",
            "Pass the artifact of a fit-q stage.",
        )
    last_layer.attach(model, last_layer.load(directory, model.config.hidden_size))
    return _on(model, device)


def _load_causal(directory: Path, beside: Any) -> Any:
    """A causal LM, whole or with an adapter."""
    base = base_of(directory) if directory.is_dir() else None
    if base is None:
        return _load(AutoModelForCausalLM, directory)
    return adapters.load(directory, _base_model(directory, base, beside))


def _base_model(directory: Path, base: ArtifactRef, beside: Any) -> Any:
    """The base of an adapter as a causal LM: that of a model beside, or loaded."""
    if beside is not None and adapters.base_of(beside) is not None:
        if adapters.base_of(beside) != base:
            raise BadDataError(
                f"the adapter in {directory.name} is for the base {base.digest}, the policy beside it is for another",
                "Pass artifacts of one run.",
            )
        return adapters.plain(beside)
    model = adapters.share(_load(AutoModelForCausalLM, base_directory(directory, base)))
    adapters.name_base(model, base)
    return model


def _adapted_q(trunk: Any, policy_config: Any, seed: int) -> Any:
    """A Q model (one label) around a trunk, with a new head."""
    config = copy.deepcopy(policy_config)
    config.num_labels = 1
    with torch.device("meta"):
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    setattr(model, model.base_model_prefix, trunk)
    score = head(model).to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed % 2**63)
        nn.init.normal_(score.weight, std=getattr(config, "initializer_range", 0.02))
        if score.bias is not None:
            nn.init.zeros_(score.bias)
    return _on(model, next(trunk.parameters()).device).eval()


def check_context(config: Any, max_prompt_tokens: int, max_new_tokens: int) -> None:
    """Raises BadSpecError if a full prompt and a full suggestion do not fit into what the model can read."""
    for limit in limits(config):
        if max_prompt_tokens + max_new_tokens > limit.tokens:
            raise BadSpecError(
                f"policy.maxPromptTokens {max_prompt_tokens} plus policy.maxNewTokens {max_new_tokens} exceed "
                f"{limit.why}",
                f"Lower policy.maxPromptTokens to {limit.tokens - max_new_tokens}."
                if limit.tokens > max_new_tokens
                else "Lower policy.maxNewTokens.",
            )


def _on(model: Any, device: torch.device | str) -> Any:
    """The model on a device, where its attention is the device's."""
    if torch.device(device).type == "cuda":
        kernels.enable(model)
    return model.to(device)


def _longest(model: Any, wanted: int | None) -> int:
    """Tokens to compare forwards on. Raises BadDataError where nobody limits texts, and the model should."""
    positions = getattr(model.config, "max_position_embeddings", None) or CONTEXT
    if wanted is None:
        wanted = min(CONTEXT, positions)
        check_reach(decoder(model), wanted)
    return min([wanted, *(limit.tokens for limit in limits(model.config))])


def load_tokenizer(directory: Path) -> Any:
    """A policy's tokenizer, with a padding token of its own, that knows what ends a suggestion by the model's files.

    BadDataError if it lacks what a chat needs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        words = set(tokenizer.get_vocab()) - {token.content for token in tokenizer.added_tokens_decoder.values()}
    except Exception as error:  # whatever is wrong with the files, transformers says it by any exception
        raise BadDataError(
            f"no tokenizer can be loaded from {directory.name}: {_one_line(error)}",
            "Put tokenizer.json and tokenizer_config.json beside the weights.",
        ) from error
    for value, what, file in (
        (tokenizer.eos_token_id, "EOS token", "eos_token"),
        (tokenizer.chat_template, "chat template", "chat_template"),
    ):
        if value is None:
            raise BadDataError(
                f"the tokenizer in {directory.name} has no {what}",
                f"Set {file} in tokenizer_config.json, or choose an instruction-tuned base.",
            )
    if len(words) < 2:  # where its file is missing, transformers makes a vocabulary of at most an end token
        raise BadDataError(
            f"the tokenizer in {directory.name} knows special tokens only: it lacks its vocabulary",
            "Put tokenizer.json of the base beside the weights.",
        )
    ends.attach(tokenizer, directory)
    _separate_padding(tokenizer)
    return tokenizer


def _separate_padding(tokenizer: Any) -> None:
    """Makes sure that padding is nothing that ends a suggestion: a stock Q model reads its score before the padding."""
    stops = ends.of(tokenizer)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in stops:
        return
    others = [token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) not in stops]
    unused = [token for token in others if token not in str(tokenizer.chat_template)]
    preferred = [token for token in (tokenizer.unk_token, tokenizer.bos_token) if token in others]
    tokenizer.pad_token = (preferred + unused + others + [tokenizer.eos_token])[0]


def _load(factory: Any, directory: Path) -> Any:
    if not directory.is_dir():
        raise BadDataError(f"there is no model directory {directory.name}", "Check policy.base.")
    check_files((path.name for path in directory.iterdir()), directory.name)
    disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    check_kind(read_config(directory).get("model_type"), directory.name)
    config = _guard(directory, lambda: AutoConfig.from_pretrained(directory, **local))
    check_config(config, directory.name)
    _without_dropout(config)
    _with_plain_outputs(config)
    model, report = _guard(
        directory,
        lambda: factory.from_pretrained(
            directory, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
        ),
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BadDataError(
            f"the model in {directory.name} lacks {len(missing)} weights, first {missing[0]}",
            "Check that it was saved as the kind of model that it is used for, and completely.",
        )
    if report["unexpected_keys"]:
        extra = sorted(report["unexpected_keys"])
        raise BadDataError(
            f"{type(model).__name__} has no use for {len(extra)} weights of {directory.name}, first {extra[0]}",
            "Check config.json (architecture, biases), or save what transformers loads: save_pretrained writes that.",
        )
    return model.eval()


def _guard(directory: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (StageError, MemoryError):
        raise
    except Exception as error:  # transformers tells of files that it cannot use by any exception
        raise BadDataError(
            f"the model in {directory.name} cannot be loaded: {_one_line(error)}",
            "It must be a complete transformers directory, of a text model that needs no remote code.",
        ) from error


def _check_saves(directory: Path, model: Any) -> None:
    """Makes sure that what is trained can be saved: transformers checks some settings only then.

    A generation_config.json with a temperature or top_p beside `do_sample: false`, which is common, counts as one that
    samples: that is what its figures are for, and here everything samples with its own settings.
    """
    generation = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True
    try:
        with tempfile.TemporaryDirectory() as place:
            generation.save_pretrained(place)
            model.config.save_pretrained(place)
    except Exception as error:  # not of one class
        raise BadDataError(
            f"the model in {directory.name} could not be saved again: {_one_line(error)}",
            "Correct config.json and generation_config.json; the latter may be deleted.",
        ) from error


def _without_dropout(config: Any) -> None:
    """Dropout would make the ratio of the first minibatch differ from 1, so it is off for good."""
    for name, value in vars(config).items():
        if isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
            setattr(config, name, 0.0)


def _with_plain_outputs(config: Any) -> None:
    """A config may ask for more than the last states, or for bare tuples: that changes no number, only the answer's
    form."""
    for name, plain in (("output_attentions", False), ("output_hidden_states", False), ("return_dict", True)):
        if getattr(config, name, plain) is not plain:
            setattr(config, name, plain)


def _one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__

"""What a model's directory holds, by the names of its files: what is loaded, and what would be left out unsaid."""

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.contract.layout import check_key
from ippo_trainer.contract.spec import ArtifactRef

WEIGHTS = "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Of an adapter in peft's format."""
_SHARDS = "model-*-of-*.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ADAPTERS = (ADAPTER_CONFIG, "adapter_model.*")
_COPIES = ("consolidated*.safetensors", "model-*-of-*.safetensors")
"""The same weights in another format, as Mistral's bases have them."""
_TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
)
_PROCESSORS: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "min_new_tokens": None,
    "min_length": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "stop_strings": None,
}
"""Settings of generation_config.json that change which tokens are drawn or what ends them, and their values without
effect."""


def weight_files(names: Iterable[str]) -> list[str]:
    """Those that transformers loads: one file, or its shards. Others may lie beside them, e.g. in Mistral's format."""
    weights = sorted(name for name in names if fnmatch(name, _SHARDS) or name == WEIGHTS)
    return [WEIGHTS] if WEIGHTS in weights else weights


def loaded_files(names: Iterable[str]) -> list[str]:
    """Of a directory's files, by path, those that loading its model and its tokenizer reads."""
    names = list(names)
    texts = [name for name in names if any(_matches(name, pattern) for pattern in _TEXTS)]
    shards = weight_files(names)
    return sorted({*texts, *shards, *([_INDEX] if _INDEX in names and WEIGHTS not in shards else [])})


def check_files(names: Iterable[str], where: str) -> None:
    """Raises BadDataError if no weights can be loaded, or if others than the loaded ones should count too.

    Args:
        names: of the directory's files.
        where: the directory, for errors.
    """
    names = sorted(names)
    adapters = [name for name in names if any(fnmatch(name, pattern) for pattern in _ADAPTERS)]
    if adapters:
        raise BadDataError(
            f"the model directory {where} holds an adapter ({adapters[0]}), which is not applied here",
            "Merge it: PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(...) writes a whole model; "
            "python -m ippo_trainer.store.fetch --merged does so for a policy of a run.",
        )
    weights = weight_files(names)
    if not weights:
        pickles = [name for name in names if name.endswith(_PICKLES)]
        others = [name for name in names if name.endswith(".safetensors")]
        holds = f"no {WEIGHTS}, but {others[0]}" if others else "no weights"
        holds = f"only pickled weights ({pickles[0]}), which can run code when opened" if pickles else holds
        raise BadDataError(
            f"the model directory {where} holds {holds}",
            "Convert it: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) writes model.safetensors.",
        )
    if weights != [WEIGHTS] and _INDEX not in names:
        raise BadDataError(
            f"the model directory {where} holds weights in parts ({weights[0]}) without {_INDEX}",
            "Put the index of the parts beside them.",
        )
    if weights == [WEIGHTS] and _INDEX in names:
        raise BadDataError(
            f"the model directory {where} holds {WEIGHTS} and {_INDEX}: one of two models", "Remove what is not meant."
        )


def base_of(directory: Path) -> ArtifactRef | None:
    """The base of the adapter in a directory, as it names it; None where there is no adapter of a run.

    Raises:
        BadDataError: its settings are no JSON.
    """
    path = directory / ADAPTER_CONFIG
    if not path.is_file():
        return None
    content = _json(path)
    try:
        return ArtifactRef(key=content["base_model_name_or_path"], digest=content["revision"])
    except (KeyError, ValueError):
        return None


def base_directory(directory: Path, base: ArtifactRef) -> Path:
    """Where a base is: at its key below the adapter's directory, or below one above, as in a store.

    Raises:
        BadDataError: it is not there.
    """
    check_key(base.key)
    place = directory.absolute()
    for above in (place, *place.parents):
        if (above / base.key).is_dir():
            return above / base.key
    raise BadDataError(
        f"the base of the adapter in {directory.name} is not there: {base.key}",
        "Fetch the adapter with python -m ippo_trainer.store.fetch, which brings its base, or keep both in their run's "
        "folder.",
    )


def model_files(directory: Path) -> list[Path]:
    """All safetensors that a model in a directory is loaded from; of an adapter, its base's too."""
    base = base_of(directory)
    return sorted(directory.glob("*.safetensors")) + (model_files(base_directory(directory, base)) if base else [])


def unheeded(directory: Path) -> list[str]:
    """What a model's directory says and nobody here does, one line each."""
    names = [path.name for path in directory.iterdir()]
    used = {*weight_files(names)}
    extra = [name for name in names if name.endswith(".safetensors") and name not in used]
    extra = sorted(name for name in extra if not any(fnmatch(name, pattern) for pattern in _COPIES))
    lines = [f"{name} is not loaded" for name in extra]
    if read_config(directory).get("auto_map"):
        lines.append("config.json names code of its own (auto_map), which is not run: transformers' own is")
    generation = directory / "generation_config.json"
    settings = _json(generation) if generation.is_file() else {}
    changed = [name for name, neutral in _PROCESSORS.items() if settings.get(name, neutral) not in (neutral, None, [])]
    if changed:
        lines.append(f"generation_config.json sets {', '.join(changed)}: the policy is sampled and trained without")
    return lines


def read_config(directory: Path) -> dict[str, Any]:
    """The content of config.json. Raises BadDataError where there is none."""
    path = directory / "config.json"
    if not path.is_file():
        raise BadDataError(
            f"the model in {directory.name} cannot be loaded: it has no config.json", "Put it beside the weights."
        )
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadDataError(
            f"{path.name} in {path.parent.name} is no JSON: {error}", "Fetch the model again."
        ) from error
    if not isinstance(content, dict):
        raise BadDataError(f"{path.name} in {path.parent.name} is no JSON object", "Fetch the model again.")
    return content


def _matches(name: str, pattern: str) -> bool:
    """As fnmatch, but that `*` does not cross folders."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)

"""Low-rank adapters (LoRA, arXiv 2106.09685) on one base: models that share its weights and own the rest.

Nothing is switched. The policy, what it is compared with, the critic and Q are models of their own, with adapters of
their own; the parameters of the base are the same tensors in all of them. So threads, recomputed layers and captured
graphs see the model that they were given. What belongs to the base is marked, frozen, and never copied.

On disk an adapter has peft's format, with the base's place and digest in it; a Q model's head is among its weights.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ippo_trainer.models.parts import decoder, head

_NAME = "default"
"""Of the one adapter that a model has, in peft's layers."""
_MARK = "of_base"
_HEAD = "base_model.model.score.weight"
_MOST_NAMES = 12


def of_base(parameter: Tensor) -> bool:
    """Whether a parameter is a base's, shared by models and frozen."""
    return getattr(parameter, _MARK, False)


def is_adapted(model: Any) -> bool:
    """Whether a model has an adapter on a shared base, or is one without."""
    return any(of_base(parameter) for parameter in model.parameters())


def own_parameters(model: Any) -> list[Any]:
    """Those that are not a base's: all of them, of a model that is whole."""
    return [parameter for parameter in model.parameters() if not of_base(parameter)]


def share(model: Any) -> Any:
    """Makes a whole model a base: from now on its parameters stay as they are, and its copies have the same ones."""
    for parameter in model.requires_grad_(False).parameters():
        setattr(parameter, _MARK, True)
    return model


def copied(model: Any) -> Any:
    """A copy whose own parameters are copies, and whose base's are the same."""
    return copy.deepcopy(model, {id(each): each for each in model.parameters() if of_base(each)})


def trainable(model: Any) -> Any:
    """The same model; its own parameters get gradients, a base's never do."""
    for parameter in model.parameters():
        parameter.requires_grad_(not of_base(parameter))
    return model


def plain(model: Any) -> Any:
    """A model of the base alone, with a copy's modules and the same parameters."""
    result = copied(model)
    trunk = decoder(result)
    for name, layer in list(_layers(trunk)):
        parent, _, last = name.rpartition(".")
        setattr(trunk.get_submodule(parent), last, layer.base_layer)
    return result


def check(model: Any, adapter: params.Adapter) -> None:
    """Raises BadSpecError if an adapter cannot be put on a model; see `add`."""
    _targets(decoder(model), adapter)


def count_parameters(model: Any, adapter: params.Adapter) -> int:
    """How many an adapter on a model would have; raises as `check`."""
    trunk = decoder(model)
    names = _targets(trunk, adapter)
    layers = [module for path, module in trunk.named_modules() if path.rpartition(".")[2] in names]
    return adapter.chosen_rank * sum(sum(layer.weight.shape) for layer in layers if _is_linear(layer))


def add(model: Any, adapter: params.Adapter, seed: int) -> Any:
    """Puts a new adapter, which changes no number yet, on a model of the base alone.

    Args:
        model: from `share` or `plain`; changed in place.
        adapter: the user's section.
        seed: of what is trained; torch's global stream is left alone.

    Raises:
        BadSpecError: layers that the model does not have, that are not linear, or that are smaller than the rank.
    """
    trunk = decoder(model)
    names = _targets(trunk, adapter)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        _inject(trunk, adapter.chosen_rank, adapter.chosen_alpha, names)
    return model


def name_base(model: Any, base: ArtifactRef) -> None:
    """Says which artifact the base of a model is; copies of its trunk know it, too."""
    decoder(model).base_artifact = base


def base_of(model: Any) -> ArtifactRef | None:
    """The artifact of a model's base; None of a model that is whole."""
    ref: ArtifactRef | None = getattr(decoder(model), "base_artifact", None)
    return ref


def save(directory: Path, model: Any) -> None:
    """Writes adapter and settings of a policy or of a Q model, in peft's format, into an existing directory."""
    from peft import LoraConfig

    trunk, base = decoder(model), base_of(model)
    if base is None:
        raise ValueError("the base has no name; call name_base first")
    layers = dict(_layers(trunk))
    first = next(iter(layers.values()))
    is_q = model.get_output_embeddings() is None
    config = LoraConfig(
        r=first.r[_NAME],
        lora_alpha=first.lora_alpha[_NAME],
        target_modules=sorted({name.rpartition(".")[2] for name in layers}),
        task_type="SEQ_CLS" if is_q else "CAUSAL_LM",
        modules_to_save=["score"] if is_q else None,
        base_model_name_or_path=base.key,
        revision=base.digest,
        inference_mode=True,
        fan_in_fan_out=any(layer.fan_in_fan_out for layer in layers.values()),
    )
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in _weights(model)}
    save_file(tensors, directory / ADAPTER_WEIGHTS, {"format": "pt"})
    # Sets have no order, and the same adapter must have the same bytes.
    content = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    content.pop("peft_version", None)
    (directory / ADAPTER_CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
    model.config.save_pretrained(directory)
    if getattr(model, "generation_config", None) is not None and not is_q:
        model.generation_config.save_pretrained(directory)


def load(directory: Path, model: Any) -> Any:
    """Puts the adapter of a directory on a model of the base alone: a policy, or a Q model with its head.

    Raises:
        BadDataError: a damaged adapter, or one for another base.
    """
    try:
        content = json.loads((directory / ADAPTER_CONFIG).read_bytes())
        rank, alpha, names = int(content["r"]), int(content["lora_alpha"]), list(content["target_modules"])
        tensors = load_file(directory / ADAPTER_WEIGHTS)
        with torch.random.fork_rng(devices=[]):
            _inject(decoder(model), rank, alpha, names)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadDataError(
            f"the adapter in {directory.name} cannot be loaded: {' '.join(str(error).split())[:200]}",
            "Pass the artifact of a stage as it was published.",
        ) from error
    weights = dict(_weights(model))
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        wrong = sorted(name for name in shapes.keys() | tensors.keys() if name not in shapes or name not in tensors)
        wrong += sorted(name for name in shapes.keys() & tensors.keys() if shapes[name] != tuple(tensors[name].shape))
        raise BadDataError(
            f"the adapter in {directory.name} is for another base: {len(wrong)} weights differ, first {wrong[0]}",
            "Use the base that the adapter was trained on; a run keeps it among its artifacts.",
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[name])
    return trainable(model)


def merge(model: Any) -> Any:
    """Makes a model whole, in place: the same numbers up to rounding, for tools that know no adapters.

    Nothing else may have its base.
    """
    trunk = decoder(model)
    for name, layer in list(_layers(trunk)):
        parent, _, last = name.rpartition(".")
        layer.merge()
        setattr(trunk.get_submodule(parent), last, layer.base_layer)
    for parameter in model.requires_grad_(True).parameters():
        setattr(parameter, _MARK, False)
    return model


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """What the file of a whole model would hold of a model as it is now, by the names there; on the CPU.

    The sum of a base's weight and what an adapter adds is made in fp32. Nothing is changed.
    """
    prefix = f"{model.base_model_prefix}."
    layers = {f"{prefix}{name}": layer for name, layer in _layers(decoder(model))}
    for name, parameter in model.named_parameters():
        path, _, kind = name.partition(".base_layer.")
        if kind == "weight":
            added = layers[path].get_delta_weight(_NAME).float()
            yield f"{path}.{kind}", (parameter.detach().float() + added.detach()).to(parameter.dtype).cpu()
        elif ".lora_" not in name:
            yield f"{path}.{kind}" if kind else name, parameter.detach().cpu()


def _inject(trunk: Any, rank: int, alpha: int, names: list[str]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    turned = {_is_turned(module) for name, module in trunk.named_modules() if name.rpartition(".")[2] in names}
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, fan_in_fan_out=True in turned)
    inject_adapter_in_model(config, trunk, adapter_name=_NAME)
    # What peft leaves there is for its own savers, and a class of its own in a config.
    if hasattr(trunk, "peft_config"):
        del trunk.peft_config
    trunk.eval()


def _targets(trunk: Any, adapter: params.Adapter) -> list[str]:
    """Last parts of the names of the layers that get an adapter."""
    sizes: dict[str, int] = {}
    for path, module in trunk.named_modules():
        if _is_linear(module):
            name = path.rpartition(".")[2]
            sizes[name] = min(*module.weight.shape, sizes.get(name, module.weight.shape[0]))
    unknown = [name for name in adapter.targets if name not in sizes]
    if unknown:
        raise BadSpecError(
            f"policy.adapter.targetModules: the base has no linear layer {', '.join(unknown)}",
            f"It has {', '.join(sorted(sizes)[:_MOST_NAMES])}; leave the field out for all of them.",
        )
    names = sorted(adapter.targets or sizes)
    if not names:
        raise BadSpecError(
            "policy.adapter: the base has no linear layers", "Leave policy.adapter out, or choose another policy.base."
        )
    smallest = min(names, key=lambda name: sizes[name])
    if adapter.chosen_rank > sizes[smallest]:
        raise BadSpecError(
            f"policy.adapter.rank {adapter.chosen_rank} is larger than the layer {smallest} of the base, whose smaller "
            f"side is {sizes[smallest]}",
            f"Use a rank of at most {sizes[smallest]}, or leave {smallest} out of policy.adapter.targetModules.",
        )
    return names


def _is_linear(module: Any) -> bool:
    return isinstance(module, nn.Linear) or _is_turned(module)


def _is_turned(module: Any) -> bool:
    """GPT-2's linear layers, whose weights lie the other way round."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _layers(trunk: Any) -> Iterator[tuple[str, Any]]:
    """peft's layers in a trunk, by path; none while nobody has asked for an adapter."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in trunk.named_modules() if isinstance(module, LoraLayer))


def _weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """What an adapter's file holds, by its names there."""
    prefix = f"base_model.model.{model.base_model_prefix}"
    for name, layer in _layers(decoder(model)):
        yield f"{prefix}.{name}.lora_A.weight", layer.lora_A[_NAME].weight
        yield f"{prefix}.{name}.lora_B.weight", layer.lora_B[_NAME].weight
    if model.get_output_embeddings() is None:
        yield _HEAD, head(model).weight

"""Adapters on one base: what they compute, what is shared, what is on disk, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ippo_trainer.contract import params
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.spec import ArtifactRef
from ippo_trainer.models import adapters, load
from ippo_trainer.models.files import base_directory, base_of
from ippo_trainer.models.halves import halve, unite
from ippo_trainer.models.merging import whole, write_merged
from ippo_trainer.models.packing import Group, pack
from ippo_trainer.models.parts import decoder, head
from ippo_trainer.models.scoring import token_logprobs
from ippo_trainer.models.verify import verify
from ippo_trainer.qfit.readings import read_logits
from ippo_trainer.text.tokenizer import build_tokenizer
from ippo_trainer.training.optimiser import Optimiser
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.kit.architectures import tiny_config

BASE = ArtifactRef(key="iterations/0000/base/00112233", digest="sha256:" + "1" * 64)
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
TOLERANCE = 1e-5


class Nothing:
    def save(self, directory: Path) -> None:
        (directory / "prompt.json").write_text("{}")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(["shall i wrap a bouquet for you", "which colour would you like", "red or white"] * 3)


@pytest.fixture
def store(tmp_path: Path, tokenizer: Any) -> Path:
    """A folder with a base in its place."""
    place = tmp_path / BASE.key
    load.build_tiny("tiny:d16-l2-h2", tokenizer, 3).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return tmp_path


def adapted(store: Path, seed: int = 1, **settings: Any) -> Any:
    """The base with an adapter that counts."""
    model = adapters.share(load._load(AutoModelForCausalLM, store / BASE.key))
    adapters.name_base(model, BASE)
    adapters.add(model, params.Adapter(**{"rank": 4} | settings), seed)
    return stirred(model, seed)


def stirred(model: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.own_parameters(adapters.trainable(model)):
            parameter.normal_(std=0.3)
    return model


def put(store: Path, model: Any, tokenizer: Any, name: str = "policy") -> Path:
    directory = store / "iterations/0001" / name
    load.save_policy(directory, model, tokenizer, Nothing())
    return directory


def test_a_new_adapter_changes_nothing_and_depends_on_its_seed(store: Path) -> None:
    base = load._load(AutoModelForCausalLM, store / BASE.key)
    one, other, again = (
        adapters.add(adapters.plain(adapters.share(base)), params.Adapter(rank=4), seed) for seed in (1, 2, 1)
    )
    assert torch.equal(one(IDS).logits, base(IDS).logits)
    first, second, third = ([p for p in adapters.own_parameters(m) if p.abs().sum() > 0] for m in (one, other, again))
    assert all(torch.equal(a, b) for a, b in zip(first, third, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_peft_loads_policy_and_q_and_computes_the_same(store: Path, tokenizer: Any) -> None:
    """By its own loader, merged and not."""
    policy = adapted(store)
    q = load.new_q(policy, 5)
    stirred(q, 9)
    pairs = ((policy, AutoModelForCausalLM, {}), (q, AutoModelForSequenceClassification, {"num_labels": 1}))
    for model, kind, more in pairs:
        directory = put(store, model, tokenizer, kind.__name__)
        plain = kind.from_pretrained(store / BASE.key, pad_token_id=tokenizer.pad_token_id, **more)
        theirs = PeftModel.from_pretrained(plain, directory).eval()
        with torch.no_grad():
            expected = model(IDS).logits
            assert not torch.allclose(expected, adapters.plain(model)(IDS).logits, atol=1e-2)
            assert (theirs(IDS).logits - expected).abs().max() < TOLERANCE
            assert (theirs.merge_and_unload()(IDS).logits - expected).abs().max() < TOLERANCE


def test_what_was_saved_is_loaded_on_the_base_of_a_model_beside(store: Path, tokenizer: Any) -> None:
    policy, other = adapted(store, 1), adapted(store, 2)
    q = stirred(load.new_q(policy, 5), 9)
    places = [put(store, model, tokenizer, name) for name, model in (("a", policy), ("b", other), ("q", q))]
    first = load.load_policy(places[0], longest=24).model
    second = load.load_policy(places[1], longest=24, beside=first).model
    third = load.load_q(places[2], beside=first)
    assert base_of(places[0]) == adapters.base_of(first) == adapters.base_of(third) == BASE
    bases = [[p for p in model.parameters() if adapters.of_base(p)] for model in (first, second, third)]
    assert all(one is two for one, two in zip(*bases[:2], strict=True))
    assert {id(p) for p in bases[2]} <= {id(p) for p in bases[0]}
    with torch.no_grad():
        for loaded, saved in ((first, policy), (second, other), (third, q)):
            assert torch.equal(loaded(IDS).logits, saved(IDS).logits)
        assert not torch.equal(first(IDS).logits, second(IDS).logits)
    alone = load.load_q(places[2])
    assert torch.equal(alone(IDS).logits, third(IDS).logits)


def test_training_moves_the_adapter_alone(store: Path) -> None:
    policy = adapted(store)
    kept = adapters.copied(policy).requires_grad_(False)
    q = load.new_q(policy)
    before = {id(p): p.clone() for model in (policy, q) for p in model.parameters()}
    logits = policy(IDS).logits.detach()
    for model in (policy, q):
        optimiser = Optimiser(model.parameters(), 0.1)
        model(IDS).logits.square().sum().backward()
        optimiser.step()
    for model in (policy, q):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[id(parameter)]) == adapters.of_base(parameter), name
    assert head(q).weight.requires_grad
    assert torch.equal(kept(IDS).logits, logits), "a copy is not touched"
    assert not torch.equal(policy(IDS).logits, logits)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mistral", "opt", "phi"])
def test_forwards_of_all_kinds_agree_with_an_adapter_on_it(kind: str) -> None:
    """Packed, out of a cache and padded, and a Q model around the same trunk."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(tiny_config(kind)).eval()
    base.config.pad_token_id = 0
    model = stirred(adapters.add(adapters.share(base), params.Adapter(rank=2), 1), 3)
    verify(model, kind)
    adapters.name_base(model, BASE)
    q = load.new_q(model)
    packed = pack([Group([3, 4, 5], [[6, 7]])])
    value = read_logits(q, packed).q
    last = decoder(model)(input_ids=torch.tensor([[3, 4, 5, 6, 7]])).last_hidden_state[0, -1]
    assert torch.allclose(value, head(q)(last), atol=1e-5)


def test_the_whole_model_has_the_same_log_probabilities(store: Path, tokenizer: Any) -> None:
    """What vLLM serves, and what a user takes along."""
    directory = put(store, adapted(store), tokenizer)
    packed = pack([Group([3, 4, 5, 6], [[7, 8, 9], [10, 11]])])
    with torch.no_grad():
        expected = token_logprobs(load.load_policy(directory, longest=24).model, packed).logprobs
        with whole(directory) as place:
            assert base_of(place) is None
            assert (place / "prompt.json").exists()
            plain = load.load_policy(place).model
            assert not adapters.is_adapted(plain)
            assert (token_logprobs(plain, packed).logprobs - expected).abs().max() < TOLERANCE
    assert not place.exists()
    with whole(store / BASE.key) as same:
        assert same == store / BASE.key
    write_merged(directory, store / "taken")
    stock = AutoModelForCausalLM.from_pretrained(store / "taken")
    assert (token_logprobs(stock, packed).logprobs - expected).abs().max() < TOLERANCE


def test_halves_are_kept_of_what_is_trained_only(store: Path) -> None:
    model = adapted(store)
    before = [parameter.clone() for parameter in adapters.own_parameters(model)]
    halve(model, torch.bfloat16)
    assert all(hasattr(parameter, "low") != adapters.of_base(parameter) for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    unite(model)
    assert all(torch.equal(a, b) for a, b in zip(adapters.own_parameters(model), before, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 17}, r"policy.adapter.rank 17 is larger than the layer \w+ of the base, whose smaller side is 16"),
        ({"target_modules": ("query",)}, "policy.adapter.targetModules: the base has no linear layer query"),
        ({"target_modules": ("embed_tokens",)}, "no linear layer embed_tokens"),
        ({"target_modules": ("lm_head",)}, "no linear layer lm_head"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(store: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSpecError, match=message) as caught:
        adapted(store, **settings)
    assert caught.value.remedy


def test_settings_have_bounds() -> None:
    for wrong in ({"rank": 0}, {"alpha": 0}, {"target_modules": ()}, {"dropout": "0.1"}):
        with pytest.raises(ValueError, match="1 validation error"):
            params.Adapter(**wrong)
    default = params.Adapter()
    assert (default.chosen_rank, default.chosen_alpha, default.targets) == (16, 32, ())
    assert params.Adapter(target_modules=("all-linear",)).targets == ()
    assert params.Adapter(rank=4, alpha=4, target_modules=("q_proj",)).targets == ("q_proj",)


def test_some_layers_only(store: Path, tokenizer: Any) -> None:
    model = adapted(store, target_modules=("v_proj", "q_proj"))
    assert len(adapters.own_parameters(model)) == 2 * 2 * 2
    directory = put(store, model, tokenizer)
    loaded = load.load_policy(directory, longest=24).model
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_an_adapter_for_another_base_is_refused(store: Path, tokenizer: Any) -> None:
    """By its digest beside a model, by its shapes alone, and where the base is not there."""
    directory = put(store, adapted(store), tokenizer)
    beside = load.load_policy(directory, longest=24).model
    content = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(content | {"revision": "sha256:" + "2" * 64}))
    with pytest.raises(BadDataError, match="is for the base sha256:2222"):
        load.load_policy(directory, beside=beside)
    load.build_tiny("tiny:d32-l2-h2", tokenizer, 3).save_pretrained(store / BASE.key)
    with pytest.raises(BadDataError, match=r"is for another base: .* weights differ"):
        load.load_policy(directory)
    (store / BASE.key).rename(store / "elsewhere")
    with pytest.raises(BadDataError, match=f"the base of the adapter in policy is not there: {BASE.key}"):
        load.load_policy(directory)


def test_a_damaged_adapter_is_refused(store: Path, tokenizer: Any) -> None:
    directory = put(store, adapted(store), tokenizer)
    (directory / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(BadDataError, match="the adapter in policy cannot be loaded"):
        load.load_policy(directory)
    for content in ("{", "{}", '{"base_model_name_or_path": "../..", "revision": "x"}'):
        (directory / "adapter_config.json").write_text(content)
        with pytest.raises(BadDataError):
            load.load_policy(directory)


def test_a_base_is_looked_for_below_and_above(tmp_path: Path) -> None:
    policy = tmp_path / "a" / "b"
    policy.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "a", policy):
        (place / BASE.key).mkdir(parents=True)
        assert base_directory(policy, BASE) == place / BASE.key
    with pytest.raises(Exception, match="not allowed"):
        base_directory(policy, BASE.model_copy(update={"key": "../b"}))

import json

import pytest
import torch
from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.models import load, parts
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    PreTrainedTokenizerFast,
)

from tests.kit.architectures import tiny_config
from tests.unit.text import tokenizers_for_tests

WORDS = ["<pad>", "<|end|>", "<s>", "a", "b", "c", "d", "e"]


@pytest.fixture
def tokenizer():
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<pad>", bos_token="<s>")
    made.chat_template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    return made


class Prompt:
    def save(self, directory):
        (directory / "prompt.json").write_text("{}")


def save(directory, tokenizer, base="tiny:d16-l1", model=None):
    load.save_policy(directory, model or load.build_tiny(base, tokenizer, 5), tokenizer, Prompt())
    return directory


def change(file, **fields):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | fields))


def test_tiny_is_what_its_name_says(tokenizer):
    model = load.build_tiny("tiny:d64-l2", tokenizer, 1)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 2)
    assert config.max_position_embeddings >= 1024
    assert parts.head(model).weight is model.get_input_embeddings().weight
    assert load.build_tiny("tiny:d32-l1-h4", tokenizer, 1).config.num_attention_heads == 4


def test_tiny_weights_depend_on_the_seed_only(tokenizer):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (load.build_tiny("tiny:d16-l1", tokenizer, seed) for seed in (2**62, 2**62, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [model.model.layers[0].mlp.up_proj.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("base", ["tiny:", "tiny:d64", "tiny:d64-l0", "tiny:d30-l1-h4", "tiny:d4-l1", "tiny:d64-l2-x"])
def test_other_tiny_names_are_refused(base, tokenizer):
    with pytest.raises(BadSpecError, match=r"policy\.base"):
        load.build_tiny(base, tokenizer, 1)


def test_a_saved_policy_comes_back_bit_equal_and_opens_in_stock_transformers(tmp_path, tokenizer):
    model = load.build_tiny("tiny:d16-l2", tokenizer, 5)
    loaded = load.load_policy(save(tmp_path / "p", tokenizer, model=model))
    ids = torch.tensor([[3, 4, 5]])
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "p")
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert torch.equal(stock(ids).logits, model(ids).logits)
    for again in (AutoTokenizer.from_pretrained(tmp_path / "p"), loaded.tokenizer):
        assert again("a b nonsense")["input_ids"] == tokenizer("a b nonsense")["input_ids"]
        assert again.get_vocab() == tokenizer.get_vocab()
    assert not loaded.model.training
    assert (tmp_path / "p" / "prompt.json").exists()


def test_the_bytes_on_disk_do_not_depend_on_the_place(tmp_path, tokenizer):
    first = save(tmp_path / "one", tokenizer)
    loaded = load.load_policy(first)
    second = save(tmp_path / "another" / "place", loaded.tokenizer, model=loaded.model)
    third_source = load.load_policy(second)
    third = save(tmp_path / "third", third_source.tokenizer, model=third_source.model)
    names = sorted(path.name for path in second.iterdir())
    assert names == sorted(path.name for path in third.iterdir())
    for name in names:
        assert (second / name).read_bytes() == (third / name).read_bytes(), name
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in third.iterdir())


def test_q_starts_from_the_policys_trunk_and_survives_the_disk(tmp_path, tokenizer):
    policy = load.build_tiny("tiny:d16-l2", tokenizer, 5)
    q = load.new_q(policy, seed=4)
    for name, value in parts.decoder(policy).state_dict().items():
        assert torch.equal(parts.decoder(q).state_dict()[name], value), name
    assert parts.head(q).weight.shape == (1, 16)
    assert q.config.pad_token_id == tokenizer.pad_token_id
    assert torch.equal(parts.head(q).weight, parts.head(load.new_q(policy, seed=4)).weight)
    q.save_pretrained(tmp_path)
    again = load.load_q(tmp_path)
    ids = torch.tensor([[3, 4, 5, 0], [3, 4, 5, 6]])
    assert torch.equal(again(ids).logits, q(ids).logits)
    with torch.no_grad():
        parts.decoder(q).embed_tokens.weight.zero_()
    assert parts.decoder(policy).embed_tokens.weight.abs().sum() > 0


def test_a_policy_is_no_q_model(tmp_path, tokenizer):
    save(tmp_path, tokenizer)
    with pytest.raises(BadDataError, match="weights"):
        load.load_q(tmp_path)


def test_pickled_weights_are_refused_unopened(tmp_path, tokenizer):
    save(tmp_path, tokenizer)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(BadDataError, match=r"pytorch_model\.bin.*Convert"):
        load.load_policy(tmp_path)


def test_a_directory_without_weights_is_named(tmp_path):
    with pytest.raises(BadDataError, match="no weights"):
        load.load_policy(tmp_path)
    with pytest.raises(BadDataError, match="no model directory"):
        load.load_policy(tmp_path / "absent")


def test_truncated_weights_are_refused(tmp_path, tokenizer):
    file = save(tmp_path, tokenizer) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadDataError, match="cannot be loaded"):
        load.load_policy(tmp_path)


def test_a_missing_weight_is_not_made_up(tmp_path, tokenizer):
    file = save(tmp_path, tokenizer) / "model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BadDataError, match="up_proj"):
        load.load_policy(tmp_path)


def test_nan_weights_are_refused(tmp_path, tokenizer):
    model = load.build_tiny("tiny:d16-l1", tokenizer, 5)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(BadDataError, match="NaN"):
        load.load_policy(save(tmp_path, tokenizer, model=model))


def test_remote_code_is_never_run(tmp_path, tokenizer):
    save(tmp_path, tokenizer)
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change(tmp_path / "config.json", model_type="mine", auto_map=auto_map)
    (tmp_path / "evil.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(BadDataError, match=r"remote code|trust_remote_code"):
        load.load_policy(tmp_path)


@pytest.mark.parametrize("lacking", ["EOS token", "chat template"])
def test_a_tokenizer_must_end_and_chat(tmp_path, tokenizer, lacking):
    model = load.build_tiny("tiny:d16-l1", tokenizer, 5)
    if lacking == "EOS token":
        tokenizer.eos_token = None
    else:
        tokenizer.chat_template = None
    with pytest.raises(BadDataError, match=lacking):
        load.load_policy(save(tmp_path, tokenizer, model=model))


def test_a_tokenizer_larger_than_its_model_is_refused(tmp_path, tokenizer):
    model = load.build_tiny("tiny:d16-l1", tokenizer, 5)
    tokenizer.add_tokens(["f"])
    with pytest.raises(BadDataError, match="has 9 tokens, its model 8"):
        load.load_policy(save(tmp_path, tokenizer, model=model))


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer", "GPT2Tokenizer"])
def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path, tokenizer, kind):
    """transformers makes one that reads every text as nothing, or as the unknown token."""
    save(tmp_path, tokenizer)
    (tmp_path / "tokenizer.json").unlink()
    change(tmp_path / "tokenizer_config.json", tokenizer_class=kind)
    with pytest.raises(BadDataError, match=r"Put tokenizer\.json"):
        load.load_policy(tmp_path)


def test_a_tokenizer_of_an_unknown_format_is_refused(tmp_path, tokenizer):
    save(tmp_path, tokenizer)
    change(tmp_path / "tokenizer.json", model={"type": "OfTomorrow"})
    with pytest.raises(BadDataError, match=r"Put tokenizer\.json"):
        load.load_policy(tmp_path)


@pytest.mark.parametrize("tokenizer_of", [tokenizers_for_tests.chatml, tokenizers_for_tests.sentencepiece])
def test_tokenizers_of_the_usual_kinds_are_taken(tmp_path, tokenizer_of):
    tokenizer_of().save_pretrained(tmp_path)
    assert load.load_tokenizer(tmp_path).get_vocab() == tokenizer_of().get_vocab()


def test_a_base_whose_generation_settings_contradict_each_other_can_be_saved(tmp_path, tokenizer):
    """Otherwise transformers says so after the training, on every attempt."""
    first = save(tmp_path / "base", tokenizer)
    change(first / "generation_config.json", do_sample=False, temperature=0.6, top_p=0.9)
    policy = load.load_policy(first)
    second = save(tmp_path / "policy", policy.tokenizer, model=policy.model)
    kept = json.loads((second / "generation_config.json").read_text())
    assert (kept["do_sample"], kept["temperature"], kept["top_p"]) == (True, 0.6, 0.9)


def test_a_base_that_could_not_be_saved_is_refused_before_the_training(tmp_path, tokenizer):
    change(save(tmp_path, tokenizer) / "generation_config.json", length_penalty=2.0)
    with pytest.raises(BadDataError, match=r"length_penalty.*generation_config\.json"):
        load.load_policy(tmp_path)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "fp8", "tomorrows"])
def test_quantized_weights_are_refused(tmp_path, tokenizer, method):
    change(save(tmp_path, tokenizer) / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(BadDataError, match=f"quantized.*{method}.*Choose the base"):
        load.load_policy(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attn_implementation": "flash_attention_2"}, "Remove attn_implementation"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
    ],
)
def test_a_config_that_transformers_chokes_on_is_bad_data(tmp_path, tokenizer, fields, words):
    change(save(tmp_path, tokenizer) / "config.json", **fields)
    with pytest.raises(BadDataError, match=words):
        load.load_policy(tmp_path)


def test_a_model_of_text_and_images_is_refused(tmp_path, tokenizer):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma3Config(
        text_config={**small, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 32},
        vision_config={**small, "image_size": 28, "patch_size": 14},
    )
    with pytest.raises(BadDataError, match="text-only"):
        load.load_policy(save(tmp_path, tokenizer, model=Gemma3ForConditionalGeneration(config)))


def test_padding_is_told_from_the_end(tmp_path, tokenizer):
    model = load.build_tiny("tiny:d16-l1", tokenizer, 5)
    tokenizer.pad_token = tokenizer.eos_token
    loaded = load.load_policy(save(tmp_path, tokenizer, model=model))
    assert loaded.tokenizer.pad_token_id != loaded.tokenizer.eos_token_id
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("gemma2", "final_logit_softcapping", 30.0),
        ("gemma3_text", "final_logit_softcapping", 1000.0),
        ("minicpm3", "dim_model_base", 8),
        ("cohere_compass_text", "logit_scale", 0.5),
    ],
)
def test_logits_that_are_changed_after_the_head_are_refused(tmp_path, tokenizer, kind, setting, value):
    """Also a soft-cap that is far above every logit of today: training may reach it."""
    config = tiny_config(kind, vocab_size=len(WORDS), pad_token_id=0, bos_token_id=2, eos_token_id=1)
    setattr(config, setting, value)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(BadDataError, match="logit scale"):
        load.load_policy(save(tmp_path, tokenizer, model=model))


@pytest.mark.parametrize("field", ["output_attentions", "output_hidden_states", "return_dict", "torchscript"])
def test_what_a_config_wants_beside_the_states_changes_nothing(tmp_path, tokenizer, field):
    plain = load.load_policy(save(tmp_path / "plain", tokenizer))
    change(save(tmp_path / "base", tokenizer) / "config.json", **{field: field != "return_dict"})
    policy = load.load_policy(tmp_path / "base")
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(policy.model(ids).logits, plain.model(ids).logits)
    again = load.load_policy(save(tmp_path / "policy", policy.tokenizer, model=policy.model))
    assert torch.equal(again.model(ids).logits, plain.model(ids).logits)
    assert load.new_q(again.model).config.num_labels == 1


def test_dropout_is_off_even_in_training(tmp_path, tokenizer):
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32, resid_pdrop=0.5)
    model = AutoModelForCausalLM.from_config(config)
    loaded = load.load_policy(save(tmp_path, tokenizer, model=model)).model.train()
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(loaded(ids).logits, loaded(ids).logits)


def test_prompts_must_fit_the_positions(tokenizer):
    model = load.build_tiny("tiny:d16-l1", tokenizer, 5)
    load.check_context(model.config, 4080, 16)
    with pytest.raises(BadSpecError, match="maxPromptTokens 4081"):
        load.check_context(model.config, 4081, 16)


def test_weights_that_the_architecture_has_no_use_for_are_refused(tmp_path, tokenizer):
    """A bias that config.json does not mention would be left out, and other numbers come out."""
    file = save(tmp_path, tokenizer) / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}, file, metadata={"format": "pt"})
    with pytest.raises(BadDataError, match=r"LlamaForCausalLM has no use for 1 weights .*q_proj\.bias"):
        load.load_policy(tmp_path)


def test_an_adapter_beside_a_model_is_refused(tmp_path, tokenizer):
    save(tmp_path, tokenizer)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(BadDataError, match="Merge it"):
        load.load_policy(tmp_path)

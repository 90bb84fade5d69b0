"""One set of tokens ends a suggestion: all that a model's files name, for us and for stock tools."""

import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.models.load import build_tiny, load_policy, load_tokenizer, save_policy
from ippo_trainer.text.render import Renderer
from ippo_trainer.text.rows import training_rows
from transformers import GenerationConfig

from . import kinds_of_tokenizers as kinds


def saved(directory: Path, tokenizer: Any, **files: dict[str, Any]) -> Path:
    tokenizer.save_pretrained(directory)
    for name, value in files.items():
        (directory / f"{name}.json").write_text(json.dumps(value))
    return directory


@pytest.mark.parametrize(
    ("generation", "config", "extra"),
    [
        ({}, {}, set()),
        ({"eos_token_id": None}, {"eos_token_id": None}, set()),
        ({"eos_token_id": "<|user|>"}, {}, {"<|user|>"}),
        ({"eos_token_id": ["</s>", "<|user|>", "<|end|>"]}, {}, {"<|user|>", "<|end|>"}),
        ({"eos_token_id": ["<|user|>"]}, {"eos_token_id": "<|end|>"}, {"<|user|>", "<|end|>"}),
        ({}, {"eos_token_id": ["<|end|>"]}, {"<|end|>"}),
        ({"eos_token_id": [10**6]}, {"eos_token_id": 50256}, set()),
    ],
)
@pytest.mark.parametrize("flags", ["special", "not special"])
def test_all_that_the_files_name_ends(
    generation: Any, config: Any, extra: set[str], flags: str, tmp_path: Path
) -> None:
    tokenizer = kinds.fresh("byte level", kinds.CHATML, flags)

    def numbered(value: Any) -> Any:
        if isinstance(value, dict | list):
            return {k: numbered(v) for k, v in value.items()} if isinstance(value, dict) else [*map(numbered, value)]
        return tokenizer.convert_tokens_to_ids(value) if isinstance(value, str) else value

    saved(
        tmp_path, tokenizer, generation_config=numbered(generation), config={"model_type": "llama", **numbered(config)}
    )
    loaded = load_tokenizer(tmp_path)
    render = Renderer(loaded, "", 256)
    assert {loaded.convert_ids_to_tokens(end) for end in render.stop_ids} == {"</s>", "<|im_end|>"} | extra
    assert loaded.pad_token_id not in render.stop_ids
    for end in render.stop_ids:
        said = [*render.response("red")[:-1], end, *render.response("more")]
        assert render.decode(said) == ("red", True)


@pytest.mark.parametrize("value", [True, -1, "</s>", 1.5, [1, None], {"a": 1}])
def test_what_is_no_token_is_refused(value: Any, tmp_path: Path) -> None:
    saved(tmp_path, kinds.fresh("byte level", kinds.CHATML), generation_config={"eos_token_id": value})
    with pytest.raises(BadDataError, match=r"eos_token_id in generation_config\.json is"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["byte level", "legacy", "unigram"])
def test_ordinary_text_is_no_end(kind: str, tmp_path: Path) -> None:
    tokenizer = kinds.fresh(kind, kinds.CHATML)
    word = tokenizer("hello", add_special_tokens=False)["input_ids"][0]
    saved(tmp_path, tokenizer, generation_config={"eos_token_id": [word]})
    with pytest.raises(BadDataError, match=r"call token \d+, .*, an end, and that is ordinary text.*Correct eos_token"):
        Renderer(load_tokenizer(tmp_path), "", 256)


def test_the_next_roles_token_ends_an_answer_where_the_files_say_so(tmp_path: Path) -> None:
    """GLM's template puts nothing after an answer; the model was taught to say whose turn it is."""
    tokenizer = kinds.fresh("byte level", kinds.TEMPLATES["glm"])
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    saved(tmp_path, tokenizer, generation_config={"eos_token_id": [tokenizer.eos_token_id, user]})
    render = Renderer(load_tokenizer(tmp_path), "", 256)
    assert render.response("red")[-1] == render.stop_id == user
    rows = training_rows(
        render, Conversation("c", [Turn("hello", "red", "accepted", "red"), Turn("so", "a", "edited", "b")])
    )
    assert len(rows.rows) == 1
    assert sum(rows.rows[0].response_mask) == len(render.response("red")) + len(render.response("a"))


@pytest.mark.parametrize("template", ["chatml", "glm"])
def test_a_saved_policy_tells_stock_tools(template: str, tmp_path: Path) -> None:
    tokenizer = kinds.fresh("byte level", kinds.TEMPLATES[template])
    tokenizer.pad_token = "<unk>"
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<|user|>")]
    model = build_tiny("tiny:d32-l1", tokenizer, 1)
    model.generation_config = GenerationConfig(eos_token_id=ends)
    base = tmp_path / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    policy = load_policy(base)
    render = Renderer(policy.tokenizer, "", 256)
    save_policy(tmp_path / "a", policy.model, policy.tokenizer, render)
    assert frozenset(GenerationConfig.from_pretrained(tmp_path / "a").eos_token_id) == render.stop_ids
    again = load_policy(tmp_path / "a")
    loaded = Renderer.load(tmp_path / "a", again.tokenizer)
    assert loaded.stop_ids == render.stop_ids
    save_policy(tmp_path / "b", again.model, again.tokenizer, loaded)
    assert (tmp_path / "a" / "generation_config.json").read_bytes() == (
        tmp_path / "b" / "generation_config.json"
    ).read_bytes()


def test_one_end_is_written_as_transformers_does(tmp_path: Path) -> None:
    tokenizer = kinds.fresh("byte level", kinds.TEMPLATES["zephyr"])
    tokenizer.pad_token = "<unk>"
    model = build_tiny("tiny:d32-l1", tokenizer, 1)
    model.save_pretrained(tmp_path)
    before = (tmp_path / "generation_config.json").read_bytes()
    Renderer(tokenizer, "", 256).save(tmp_path)
    assert (tmp_path / "generation_config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("pad", "chosen"), [("</s>", "<unk>"), (None, "<unk>"), ("<|im_end|>", "<unk>"), ("<|system|>", "<|system|>")]
)
def test_padding_ends_nothing(pad: str | None, chosen: str, tmp_path: Path) -> None:
    tokenizer = kinds.fresh("legacy", kinds.CHATML)
    tokenizer.pad_token = pad
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    saved(tmp_path, tokenizer, generation_config={"eos_token_id": [tokenizer.eos_token_id, end]})
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token == chosen
    assert loaded.pad_token_id not in Renderer(loaded, "", 256).stop_ids

"""The tokenizer made from a log: words are single tokens, nothing is lost, and stock tools read the same."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.text.tokenizer import SPECIAL, build_tokenizer
from transformers import AutoTokenizer, LlamaConfig, Qwen2Config

from . import tokenizers_for_tests as kinds


def test_every_word_of_the_log_is_one_token_at_the_start_and_after_a_space() -> None:
    tokenizer = kinds.tiny()
    for text in kinds.LOG:
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(text.split())


@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_no_character_is_lost(text: str) -> None:
    tokenizer = kinds.tiny()
    composed = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == composed
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_special_tokens_are_single_and_padding_is_not_the_end() -> None:
    tokenizer = kinds.tiny()
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert set(SPECIAL) == set(tokenizer.all_special_tokens)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == max(tokenizer.get_vocab().values()) + 1


@pytest.mark.parametrize("config", [Qwen2Config, LlamaConfig])
def test_stock_tools_read_the_same_tokens(config: type, tmp_path: Path) -> None:
    tokenizer = kinds.tiny()
    tokenizer.save_pretrained(tmp_path)
    config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "which colour, I'd  like\n\n<|end|> [accepted] Ünknown 12 <|user|>"
    for options in ({}, {"split_special_tokens": True}):
        assert loaded(text, **options)["input_ids"] == tokenizer(text, **options)["input_ids"]
    assert (loaded.eos_token, loaded.pad_token, len(loaded)) == (
        tokenizer.eos_token,
        tokenizer.pad_token,
        len(tokenizer),
    )


def test_equal_logs_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_tokenizer(iter(kinds.LOG)).save_pretrained(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_large_log_keeps_the_frequent_words(tmp_path: Path) -> None:
    texts = [f"rare{'abcdefghij'[i % 10] * (i // 10 + 1)} common" for i in range(400)] * 2
    tokenizer = build_tokenizer(texts, max_vocabulary=320)
    assert len(tokenizer) <= 320
    assert len(tokenizer(" common", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_there_must_be_text(texts: list[str]) -> None:
    with pytest.raises(BadDataError, match=r"no text to build a tokenizer from"):
        build_tokenizer(texts)

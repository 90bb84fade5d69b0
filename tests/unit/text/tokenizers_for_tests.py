"""Small tokenizers of the three kinds that pretrained chat models have, and ours."""

import json
from functools import cache
from typing import Any

from ippo_trainer.text.tokenizer import build_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_SENTENCE = "hello i need flowers which colour would you like red please one moment a bouquet costs ten"
WORDS = _SENTENCE.split()
LOG = [" ".join(WORDS[i : i + 4]) for i in range(13)] * 3

# As in SmolLM2-135M-Instruct: with a system prompt of its own where none is given.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As in Llama 2 and Mistral: content is stripped, EOS ends each answer after a space, the system role is merged.
INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)


def _fast(inner: Tokenizer, template: str, special: list[str], **tokens: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=special, clean_up_tokenization_spaces=False, **tokens
    )
    tokenizer.chat_template = template
    return tokenizer


@cache
def tiny() -> Any:
    return build_tokenizer(LOG)


@cache
def chatml() -> Any:
    """Byte-level BPE as in GPT-2, with a tool tag that is an added token but not a special one."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*LOG, "<|im_start|>user system assistant"], trainer)
    inner.add_tokens([AddedToken("<tool_call>", special=False)])
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return _fast(inner, CHATML, ["<|im_start|>"], **tokens)


@cache
def sentencepiece() -> Any:
    """BPE with byte fallback and a word-boundary mark, as in Llama 2."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(LOG, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) for pair in learnt["merges"]]
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(inner, INST, [], bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")

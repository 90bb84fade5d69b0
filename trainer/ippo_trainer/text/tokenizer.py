"""A small tokenizer made from a log: its words are single tokens, everything else falls back to bytes."""

import json
import re
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.text.markers import MARKERS, TOOL

PAD, END = "<|pad|>", "<|end|>"
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, END, *_ROLES, *MARKERS)

# Nobody repeats a word so long, and to learn from it takes time with the square of its length.
_ENDLESS = re.compile(r"\S{256,}|\s{256,}")

# One token opens each message and one ends each suggestion: in a tiny model's prompts every token is a cost.
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{%- if message['role'] == 'assistant' -%}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
MAX_VOCABULARY = 4096
"""Of a tokenizer that is made of a log, unless said otherwise."""


def build_tokenizer(
    texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY, tools: bool = False
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer whose merges make whole words of `texts` (all sides of the log) single tokens.

    It is a plain `Qwen2Tokenizer`, because AutoTokenizer builds one for every Qwen2 model whatever the directory says;
    so it reads back the same everywhere. Like any of them it brings text to Unicode's composed form (NFC).

    Args:
        texts: messages of customers, agents and businesses.
        tools: whether the log has messages of tools, so that their marker is a token, too.
        max_vocabulary: upper bound of the vocabulary; in a large log the rarest words stay in pieces.

    Raises:
        BadDataError: there is no text to learn from.
    """
    blank = Qwen2Tokenizer(vocab={END: 0}, merges=[], unk_token=None, eos_token=END, pad_token=END).backend_tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = blank.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        _counted(texts),
        trainers.BpeTrainer(
            vocab_size=max_vocabulary - len(SPECIAL) - tools,
            min_frequency=2,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    learner.decoder = decoders.ByteLevel()
    return _as_qwen2(learner, (*MARKERS, TOOL) if tools else MARKERS)


def _counted(texts: Iterable[str]) -> Iterable[str]:
    """The same texts without their endless words; BadDataError if there were none with a character in it."""
    has_text = False
    for text in texts:
        has_text = has_text or bool(text.strip())
        yield _ENDLESS.sub(" ", text)
    if not has_text:
        raise BadDataError("there is no text to build a tokenizer from", "Give a log with messages in it.")


def _as_qwen2(learner: Tokenizer, markers: tuple[str, ...]) -> PreTrainedTokenizerBase:
    model = json.loads(learner.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = {token: index for index, token in enumerate([PAD, END, *_ROLES, *markers, *words])}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[AddedToken(token, special=True) for token in (*_ROLES, *markers)],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer

"""Small tokenizers of every kind that chat models come with, and the chat templates in use: `CASES` pairs them."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# With what large vocabularies have merged: runs of white space, brackets with line breaks, words across them.
_CORPUS = [
    "what do red tulips cost , we have red tulips today . [INST] [/INST] [accepted]\n",
    "hello  there\n\nyes   please\n\n\nok [accepted]\n [edited] no.\n",
    " <|user|>\n <|assistant|>\nUser: Assistant: user\n",
    "Ünïçödé été naïve Café HELLO Hello, it's 12.50\n\n- one\n- two\n\tthree    four",
] * 9
_ENDS = ("<unk>", "<s>", "</s>")
_ROLES = ("<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "trimmed chatml": CHATML.replace("m['content']", "m['content'] | trim"),
    "mistral": "<s>{% for m in messages %}{% if m['role']=='user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}",
    "llama 2": "{% for m in messages %}{% if m['role']=='user' %}<s>[INST] {{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} </s>{% endif %}{% endfor %}",
    "zephyr": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "phi 3": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "glm": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "plain": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
    "vicuna": "{% for m in messages %}{% if m['role']=='user' %}User: {{ m['content'] }} {% else %}"
    "Assistant: {{ m['content'] }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}",
}
OTHERS = {
    "thinking": CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif"),
    "lines stripped": CHATML.replace("m['content']", "m['content'].strip('\n')"),
}


def _bpe(pre: Any, decoder: Any, *, normalizer: Any = None, alphabet: bool = False) -> Tokenizer:
    inner = Tokenizer(models.BPE(unk_token=None if alphabet else "<unk>", byte_fallback=not alphabet))
    inner.normalizer, inner.decoder = normalizer, decoder
    if pre is not None:
        inner.pre_tokenizer = pre
    initial = sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet else []
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=list(_ENDS), initial_alphabet=initial
    )
    inner.train_from_iterator(_CORPUS, trainer)
    return inner if alphabet else _with_bytes(inner)


def _with_bytes(inner: Tokenizer) -> Tokenizer:
    value = json.loads(inner.to_str())
    vocabulary = value["model"]["vocab"]
    for byte in range(256):
        if isinstance(vocabulary, dict):
            vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
        else:
            vocabulary.append([f"<0x{byte:02X}>", -20.0])
    value["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(value))


def _byte_level(prefix: bool = False, normalizer: Any = None) -> Tokenizer:
    pre = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return _bpe(pre, decoders.ByteLevel(), normalizer=normalizer, alphabet=True)


def _without(byte: str) -> Tokenizer:
    """As who trains on a small corpus without `initial_alphabet`: what was not there is dropped without a word."""
    value = json.loads(_byte_level().to_str())
    model = value["model"]
    model["merges"] = [pair for pair in model["merges"] if byte not in "".join(pair)]
    kept = [word for word in sorted(model["vocab"], key=model["vocab"].get) if byte not in word]
    model["vocab"] = {word: index for index, word in enumerate(kept)}
    value["added_tokens"] = [token | {"id": model["vocab"][token["content"]]} for token in value["added_tokens"]]
    return Tokenizer.from_str(json.dumps(value))


def _tiktoken() -> Tokenizer:
    """As Llama 3 and Qwen: line breaks go with the white space and the punctuation before them."""
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    pre = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _bpe(pre, decoders.ByteLevel(), alphabet=True)


def _spm_decoder() -> Any:
    replace, strip = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    return decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse(), strip])


def _metaspace(scheme: str, split: bool = True) -> Tokenizer:
    decoder = _spm_decoder()
    if scheme == "never":
        decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _bpe(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split), decoder)


def _legacy() -> Tokenizer:
    """As Llama 2 with `legacy`: the normalizer puts a space before every stretch."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _bpe(None, _spm_decoder(), normalizer=normalizer)


def _unigram() -> Tokenizer:
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = _spm_decoder()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, special_tokens=list(_ENDS), unk_token="<unk>"
    )
    inner.train_from_iterator(_CORPUS, trainer)
    return _with_bytes(inner)


def _gemma() -> Tokenizer:
    return _bpe(
        pre_tokenizers.Split(" ", "merged_with_previous"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        normalizer=normalizers.Replace(" ", "▁"),
    )


def _word_piece() -> Tokenizer:
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        _CORPUS, trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=list(_ENDS))
    )
    return inner


def _no_fallback() -> Tokenizer:
    inner = _metaspace("first")
    value = json.loads(inner.to_str())
    value["model"]["byte_fallback"] = False
    return Tokenizer.from_str(json.dumps(value))


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": _byte_level,
    "byte level, prefix space": lambda: _byte_level(True),
    "byte level, NFC": lambda: _byte_level(normalizer=normalizers.NFC()),
    "byte level, NFKC": lambda: _byte_level(normalizer=normalizers.NFKC()),
    "byte level, lower case": lambda: _byte_level(normalizer=normalizers.Lowercase()),
    "byte level, stripped": lambda: _byte_level(normalizer=normalizers.Strip()),
    "byte level, as SmolLM2": lambda: _without("\u00f1"),  # 0xf1, with which no character begins
    "tiktoken": _tiktoken,
    "metaspace first": lambda: _metaspace("first"),
    "metaspace always": lambda: _metaspace("always"),
    "metaspace never": lambda: _metaspace("never"),
    "metaspace first, whole": lambda: _metaspace("first", split=False),
    "metaspace always, whole": lambda: _metaspace("always", split=False),
    "legacy": _legacy,
    "unigram": _unigram,
    "gemma": _gemma,
}
LOSSY: dict[str, Callable[[], Tokenizer]] = {
    "word piece": _word_piece,
    "no byte fallback": _no_fallback,
    "accents stripped": lambda: _byte_level(
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    ),
    "tabs as blanks": lambda: _byte_level(normalizer=normalizers.Replace("\t", " ")),
    "returns left out": lambda: _byte_level(normalizer=normalizers.Replace("\r", "")),
    "joiners left out": lambda: _byte_level(normalizer=normalizers.Replace("\u200d", "")),
    "quotes merged": lambda: _byte_level(normalizer=normalizers.Replace("``", '"')),
    "a letter missing": lambda: _without("q"),
    "a byte missing": lambda: _without("\u00d2"),  # 0xd2, which begins Cyrillic letters of Kazakh
    "spaces merged": lambda: _byte_level(normalizer=normalizers.Replace(Regex(" {2,}"), " ")),
}
FLAGS: dict[str, dict[str, bool]] = {
    "special": {"special": True},
    "not special": {"special": False, "normalized": False},
    "normalized": {"special": False, "normalized": True},
    "rstrip": {"special": True, "rstrip": True},
    "lstrip": {"special": True, "lstrip": True},
    "normalized and rstrip": {"special": True, "normalized": True, "rstrip": True},
}


@cache
def _inner(kind: str) -> str:
    return str((TOKENIZERS | LOSSY)[kind]().to_str())


@cache
def tokenizer(kind: str, template: str, flags: str = "special") -> Any:
    """A tokenizer of a kind whose role tokens have some flags, with a chat template by its name."""
    return fresh(kind, (TEMPLATES | OTHERS)[template], flags)


def fresh(kind: str, template: str, flags: str = "special") -> Any:
    """The same, of its own, with a template's text."""
    inner = Tokenizer.from_str(_inner(kind))
    options = FLAGS[flags]
    inner.add_tokens([AddedToken(role, **options) for role in _ROLES])
    inner.add_tokens([AddedToken("\n\n\n", special=False, normalized=False), AddedToken("tulips", special=False)])
    unknown = {"unk_token": "<unk>"} if kind != "byte level" else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", bos_token="<s>", clean_up_tokenization_spaces=False, **unknown
    )
    tokenizer.chat_template = template
    return tokenizer


def _cases() -> Iterator[tuple[str, str, str]]:
    for kind, template in product(TOKENIZERS, TEMPLATES):
        yield kind, template, "special"
    for kind, template, flags in product(
        ("byte level", "byte level, lower case", "legacy", "metaspace first", "unigram"),
        ("chatml", "phi 3", "glm"),
        FLAGS,
    ):
        if flags != "special":
            yield kind, template, flags
    for kind, template in product(("byte level", "tiktoken", "legacy", "metaspace always"), OTHERS):
        yield kind, template, "special"


CASES = tuple(_cases())
"""(kind, template, flags): all kinds with all templates, and all flags with the kinds that differ in them."""


def readable(kind: str) -> Iterator[tuple[str, str, str]]:
    """The cases of a kind whose tokenizer reads its own template: not one that expects a space before each token."""
    for case in CASES:
        if case[0] == kind and not (kind == "legacy" and case[2].startswith("normalized")):
            yield case

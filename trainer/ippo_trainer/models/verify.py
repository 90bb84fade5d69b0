"""Proof, by comparison, that this model's numbers do not depend on how a text is run.

Ratios, KL and Q rest on one fact: a text gets the same hidden states from a plain forward, packed with its siblings
(`packing`), token by token out of a cache (`sampling`), and padded beside a longer one (warm start). No list of
architectures can promise that of a config, so each base is tried before it is used.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from ippo_trainer.contract.errors import BadDataError, StageError
from ippo_trainer.models.attention import sliding_window
from ippo_trainer.models.cache import PrefixMemory
from ippo_trainer.models.packing import Group, hidden_states, pack
from ippo_trainer.models.parts import decoder
from ippo_trainer.models.sampling import Sampled, Sampling, sample
from ippo_trainer.models.scoring import token_logprobs

SHORT = 24
"""Tokens of the comparison that every load makes."""
_MOST, _FEWEST = 1024, 512
_WORK = 150_000_000_000
"""Parameters times tokens: a base of more than 150 million parameters is compared on fewer than 1,024 tokens."""
_WINDOW = 6
_NEW = 3
_STEM, _SIBLING = 4, 64
_TOLERANCE = 1e-3
"""Norm of the difference over the norm. In fp32, rounding stays below a hundredth of it, a wrong mask far above."""
_ATTEMPTS = 3
"""Rounding may decide between two experts that a router likes equally, but hardly for three texts in a row."""
_REMEDY = "Choose another policy.base, for example of the Llama, Qwen, Mistral or GPT-2 families."


def verify(model: Any, name: str, longest: int = SHORT) -> None:
    """Compares all forwards that the stages use with the model's own.

    The long comparison costs about seven plain forwards of at most 1,024 tokens, of 512 where the model has 300 million
    parameters or more. Sliding windows are compared at a window of a few tokens, so that theirs costs nothing.

    Args:
        model: a causal LM, its padding token set.
        name: of its directory, for errors.
        longest: tokens of a prompt with its suggestion, at most.

    Raises:
        BadDataError: forwards differ or fail, or a logit is not finite.
    """
    with torch.no_grad():
        _check_head(model, name)
        _check_forwards(model, name, SHORT)
        if sliding_window(decoder(model).config) is not None:
            _check_windows(model, name)
        if longest > SHORT:
            _check_forwards(model, name, min(longest, _affordable(model)))


def verify_q(model: Any, name: str) -> None:
    """Checks that transformers' sequence classifier is the policy's trunk and one linear map, as Q is read.

    The trunk is borrowed, so that a large base is there once.

    Raises:
        BadDataError: it is something else.
    """
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    with torch.device("meta"):
        q: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    trunk = decoder(model)
    if type(getattr(q, q.base_model_prefix, None)) is not type(trunk):
        raise BadDataError(f"{type(q).__name__}, the classifier of {name}, has another trunk than the policy", _REMEDY)
    setattr(q.eval(), q.base_model_prefix, trunk)
    score = getattr(q, "score", None)
    others = {entry for entry, value in q.named_parameters() if value.is_meta} - {"score.weight", "score.bias"}
    if not isinstance(score, nn.Linear) or others:
        raise BadDataError(
            f"{type(q).__name__}, the classifier of {name}, is not one linear map of the last hidden state", _REMEDY
        )
    device = next(model.parameters()).device
    score.to_empty(device=device)
    with torch.no_grad():
        for parameter in score.parameters():
            parameter.copy_(torch.linspace(-1.0, 1.0, parameter.numel()).view_as(parameter))
        ids = torch.tensor([_text(model, 8, 0)], device=device)
        own = _run(name, "as a classifier", lambda: q(input_ids=ids).logits[0])
        read = score(trunk(input_ids=ids).last_hidden_state[0, -1])  # type: ignore[misc]
    if _difference(read.unsqueeze(0), own.unsqueeze(0)) > _TOLERANCE:
        raise BadDataError(
            f"{type(q).__name__}, the classifier of {name}, changes its score after the last linear map", _REMEDY
        )


@dataclass(frozen=True, slots=True)
class _Dialogue:
    """A prompt, its responses, the next prompt, and its responses; the text goes through the first of each."""

    prompt: list[int]
    responses: list[Sampled]
    next_prompt: list[int]
    next_responses: list[Sampled]

    @property
    def text(self) -> list[int]:
        return self.next_prompt + self.next_responses[0].ids

    @property
    def groups(self) -> list[Group]:
        return [
            Group(self.prompt, [response.ids for response in self.responses]),
            Group(self.next_prompt, [response.ids for response in self.next_responses]),
        ]


def _check_head(model: Any, name: str) -> None:
    ids = torch.tensor([_text(model, 8, 0)], device=next(model.parameters()).device)
    logits = _run(name, "plainly", lambda: model(input_ids=ids).logits[0].float())
    if not logits.isfinite().all():
        raise BadDataError(f"the model in {name} computes NaN or infinite logits", "Its weights are damaged.")
    output = model.get_output_embeddings()
    plain = None if output is None else output(decoder(model)(input_ids=ids).last_hidden_state[0]).float()
    if plain is None or plain.shape != logits.shape or _difference(plain, logits) > _TOLERANCE or _changed(model, ids):
        raise BadDataError(
            f"the logits of the model in {name} ({type(model).__name__}) are not a linear map of its hidden states "
            "(soft-cap or logit scale)",
            "Choose a model without them, for example of the Llama or Qwen families.",
        )


def _changed(model: Any, ids: Tensor) -> bool:
    """Whether something comes after the last linear map, tried with logits so large that a soft-cap shows."""
    large = torch.linspace(-1000.0, 1000.0, model.config.vocab_size, device=ids.device).expand(*ids.shape, -1)
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: large)
    try:
        logits = model(input_ids=ids).logits
    finally:
        handle.remove()
    return not torch.equal(logits.float(), large)


def _check_windows(model: Any, name: str) -> None:
    """The window is made short for a moment: whether masks honour it does not depend on its size."""
    configs = {id(config): config for config in (model.config, decoder(model).config)}.values()
    kept = [config.sliding_window for config in configs]
    try:
        for config in configs:
            config.sliding_window = _WINDOW
        _check_forwards(model, name, SHORT, " with a sliding window")
    finally:
        for config, window in zip(configs, kept, strict=True):
            config.sliding_window = window


def _check_forwards(model: Any, name: str, length: int, how: str = "") -> None:
    for attempt in range(_ATTEMPTS):
        differences = _differences(model, name, length, attempt)
        if all(difference <= _TOLERANCE for difference in differences.values()):
            return
    # The first: a cache is compared with what is packed.
    way, worst = next(item for item in differences.items() if not item[1] <= _TOLERANCE)
    raise BadDataError(
        f"the model in {name} ({type(model).__name__}) computes other numbers for {length} tokens {way} than alone"
        f"{how} (by {worst:.1e}): its attention, positions or recurrence depend on what is run with a text",
        _REMEDY,
    )


def _differences(model: Any, name: str, length: int, attempt: int) -> dict[str, float]:
    """How far each way of running two dialogues, one long and one short, is from running their texts alone."""
    dialogues = _run(name, "out of a cache", lambda: _dialogues(model, length, attempt))
    texts = [dialogue.text for dialogue in dialogues]
    device = next(model.parameters()).device
    trunk = decoder(model)
    plain = [
        _run(name, "plainly", lambda ids=text: trunk(input_ids=torch.tensor([ids], device=device)))
        .last_hidden_state[0]
        .float()
        for text in texts
    ]
    packed, sampled = _run(name, "packed", lambda: _packed(model, dialogues, plain, length))
    padded = _run(name, "padded", lambda: _padded(model, texts, plain))
    return {"packed with others": packed, "out of a cache": sampled, "padded beside others": padded}


def _dialogues(model: Any, length: int, attempt: int) -> list[_Dialogue]:
    pad = model.config.pad_token_id or 0
    sampling, memory, slots = Sampling(2, _NEW, 1.0, frozenset(), pad), PrefixMemory(), [0, 1]
    first = length - 2 * _NEW - 2
    prompts = [_text(model, first, 2 * attempt), _text(model, _STEM + 1, 2 * attempt + 1)]
    responses = _responses(model, (prompts, [1, 2]), sampling, (memory, slots))
    later = [
        prompt + rows[0].ids + _text(model, 2, 100 + number)
        for number, (prompt, rows) in enumerate(zip(prompts, responses, strict=True))
    ]
    last = _responses(model, (later, [3, 4]), sampling, (memory, slots))
    return [_Dialogue(*parts) for parts in zip(prompts, responses, later, last, strict=True)]


def _responses(
    model: Any,
    requests: tuple[list[list[int]], list[int]],
    sampling: Sampling,
    past: tuple[PrefixMemory, list[int]],
) -> list[list[Sampled]]:
    """Two responses to each prompt: the first as in a conversation, alone and out of the memory of the turn before, the
    second as one of several to a prompt. They are decoded in different ways."""
    alone = sample(model, *requests, replace(sampling, samples=1), *past)
    several = sample(model, *requests, sampling)
    return [[mine[0], others[1]] for mine, others in zip(alone, several, strict=True)]


def _packed(model: Any, dialogues: list[_Dialogue], plain: list[Tensor], length: int) -> tuple[float, float]:
    """Differences of packed states to the plain ones, and of the sampler's log-probabilities to packed ones."""
    groups = [group for dialogue in dialogues for group in dialogue.groups]
    # Siblings before the trunk goes on: whoever counts columns instead of positions sees it far away.
    width = _FEWEST if length > SHORT else 2 * SHORT
    stem, sibling = dialogues[0].prompt[:_STEM], dialogues[0].text[: min(length - _STEM, _SIBLING)]
    filler = Group(stem, [sibling] * max(1, -(-(width - length) // len(sibling))))
    packed = pack([filler, *groups]).to(next(model.parameters()).device)
    states = hidden_states(decoder(model), packed).float()
    fillers, worst = len(filler.responses), 0.0
    ends = packed.response_end_index[fillers:]
    for number, dialogue in enumerate(dialogues):
        for turn, prompt in enumerate((dialogue.prompt, dialogue.next_prompt)):
            trunk_end = packed.prompt_index[1 + 2 * number + turn].unsqueeze(0)
            branch = ends[4 * number + 2 * turn] + torch.arange(1 - _NEW, 1, device=states.device)
            own = plain[number][len(prompt) - 1 : len(prompt) + _NEW]
            worst = max(worst, _difference(states[torch.cat([trunk_end, branch])], own))
    chosen = packed.response_index >= fillers
    logprobs = token_logprobs(model, packed).logprobs[chosen]
    spread = model.get_output_embeddings()(states[packed.predict_index[chosen]]).float().std(-1)
    rows = [row for dialogue in dialogues for row in (*dialogue.responses, *dialogue.next_responses)]
    drawn = torch.tensor([value for row in rows for value in row.logprobs], device=states.device)
    return worst, float(((drawn - logprobs).abs() / spread.clamp_min(1e-6)).max())


def _padded(model: Any, texts: list[list[int]], plain: list[Tensor]) -> float:
    """As a warm start runs texts: right-padded, with a mask of the tokens."""
    width, pad = max(map(len, texts)), model.config.pad_token_id or 0
    device = next(model.parameters()).device
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts], device=device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=device)
    states = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
    return max(_difference(states[row, : len(own)], own) for row, own in enumerate(plain))


def _difference(states: Tensor, expected: Tensor) -> float:
    """The largest over the rows of (n, D) of |states - expected| / |expected|; infinite where one is no number."""
    worst = ((states - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-6)).max()
    return float(worst.nan_to_num(nan=float("inf")))


def _text(model: Any, length: int, seed: int) -> list[int]:
    """Tokens of any kind but padding, which some models leave out of their positions."""
    size, pad = model.config.vocab_size, model.config.pad_token_id
    ids = torch.randint(size - 1, (length,), generator=torch.Generator().manual_seed(seed))
    return [token + (pad is not None and token >= pad) for token in ids.tolist()]


def _affordable(model: Any) -> int:
    parameters = int(sum(parameter.numel() for parameter in model.parameters()))
    return max(_FEWEST, min(_MOST, _WORK // parameters))


def _run(name: str, how: str, forward: Any) -> Any:
    try:
        return forward()
    except (StageError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model does not know how to do, it says by any exception
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadDataError(f"the model in {name} cannot be run {how} as it is needed here: {said}", _REMEDY) from error

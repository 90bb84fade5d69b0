"""How far a policy is from the writers of a log, and whether it knows more than one thing to say.

An improvement chooses among what the policy says. A policy that finds the writers' words unlikely starts elsewhere than
the log's outcomes belong; one that says the same thing whenever it is asked leaves nothing to choose from.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.lines import one_line
from ippo_trainer.data.own import writer_of
from ippo_trainer.data.schema import Conversation
from ippo_trainer.evaluation.divergence import suggestion_logprobs
from ippo_trainer.models.packing import Group
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.text.render import PromptTooLongError, Renderer

SAMPLES = 8
"""Suggestions that are drawn in a state."""
MOST_STATES = 128
"""In which they are drawn: the first ones of the conversations, then their second ones, and so on."""
_MOST_TOKENS = 64
_WRITERS, _LONGEST_NAME = 8, 80


def imitation(
    model: Any,
    renderer: Renderer,
    conversations: Sequence[Conversation],
    done: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Figures of the policy on a log, JSON; turns without a suggestion, or too long for a prompt, are left out.

    Args:
        model: causal LM of the policy.
        renderer: of its prompts.
        conversations: that it did not learn from, for figures that flatter nobody.
        done: is told how many more conversations are over.

    Returns:
        `turns`; `perplexity` of the writers' suggestions per token, and by writer; `byFrequency`, the perplexity for
        one who knows how frequent each token is and nothing else; `states`, and `oneSuggestion`, in how many of them
        all the samples were the same; `alternatives`, the mean number of different ones of `samples`.
    """
    groups, writers = [], list[str]()
    prompts: list[list[list[int]]] = []
    for conversation in conversations:
        prompts.append([])
        for index, turn in enumerate(conversation.turns):
            try:
                prompt = renderer.prompt_at(conversation, index).ids
            except PromptTooLongError:
                continue
            prompts[-1].append(prompt)
            if turn.suggestion is not None:
                groups.append(Group(prompt, [renderer.response(turn.suggestion)]))
                writers.append(one_line(writer_of(turn), _LONGEST_NAME))
        done(1)
    rounds = max(map(len, prompts), default=0)
    states = [each[turn] for turn in range(rounds) for each in prompts if turn < len(each)][:MOST_STATES]
    return {"turns": len(groups)} | _likeness(model, groups, writers) | _alternatives(model, renderer, states)


def _likeness(model: Any, groups: Sequence[Group], writers: Sequence[str]) -> dict[str, Any]:
    if not groups:
        return {"perplexity": None, "byFrequency": None, "byWriter": {}}
    [logprobs] = suggestion_logprobs([model], groups, 1.0)
    tokens = np.array([len(group.responses[0]) for group in groups])
    counts = np.array(list(Counter(token for group in groups for token in group.responses[0]).values()))
    shares = counts / counts.sum()
    names = np.array(writers)
    common = [name for name, _ in Counter(writers).most_common(_WRITERS)]
    return {
        "perplexity": float(np.exp(-logprobs.sum() / tokens.sum())),
        "byFrequency": float(np.exp(-(shares * np.log(shares)).sum())),
        "byWriter": {
            name: float(np.exp(-logprobs[names == name].sum() / tokens[names == name].sum())) for name in common
        },
    }


def _alternatives(model: Any, renderer: Renderer, prompts: Sequence[list[int]]) -> dict[str, Any]:
    sampling = Sampling(SAMPLES, _MOST_TOKENS, 1.0, renderer.stop_ids, renderer.tokenizer.pad_token_id)
    keys = [derive_seed(0, "imitation", number) for number in range(len(prompts))]
    drawn = sample(model, list(prompts), keys, sampling) if prompts else []
    different = [len({renderer.decode(each.ids)[0] for each in responses}) for responses in drawn]
    return {
        "samples": SAMPLES,
        "states": len(different),
        "oneSuggestion": sum(count == 1 for count in different),
        "alternatives": float(np.mean(different)) if different else None,
    }

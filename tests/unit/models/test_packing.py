import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.models.packing import Group, hidden_states, pack, pack_batches
from ippo_trainer.models.scoring import score_tokens, token_logprobs
from transformers import GPT2Config, GPT2LMHeadModel

from tests.kit.tiny_models import tiny_model

VOCABULARY = 23


@pytest.fixture(scope="module")
def model():
    return tiny_model(
        "qwen2",
        VOCABULARY,
        seed=0,
        num_hidden_layers=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.4,
    )


def naive(model, prompt, response, temperature=1.0):
    """One forward of one sequence, in float64 after the logits."""
    logits = model(torch.tensor([prompt + response])).logits[0].double() / temperature
    table = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    tokens = torch.tensor(response)
    return table.gather(1, tokens[:, None])[:, 0], -(table.exp() * table).sum(-1)


ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6)


@st.composite
def conversations(draw):
    """Groups of several conversations; within one, each prompt extends the one before, sometimes by nothing."""
    groups = []
    for _ in range(draw(st.integers(1, 3))):
        prompt = draw(ids)
        for _ in range(draw(st.integers(1, 4))):
            groups.append(Group(list(prompt), draw(st.lists(ids, max_size=3))))
            prompt = prompt + draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=5))
    return groups


@settings(max_examples=40)
@given(groups=conversations(), temperature=st.sampled_from([1.0, 0.7]))
def test_packed_equals_one_forward_per_response(model, groups, temperature):
    packed = pack(groups)
    pairs = [(group.prompt, response) for group in groups for response in group.responses]
    with torch.no_grad():
        scores = token_logprobs(model, packed, temperature)
        expected = [naive(model, prompt, response, temperature) for prompt, response in pairs]
    if not pairs:
        assert scores.logprobs.shape == (0,)
        return
    torch.testing.assert_close(scores.logprobs.double(), torch.cat([pair[0] for pair in expected]), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.entropy.double(), torch.cat([pair[1] for pair in expected]), atol=1e-5, rtol=0)
    assert packed.tokens.tolist() == [token for _, response in pairs for token in response]


@settings(max_examples=20)
@given(groups=conversations())
def test_states_and_ends_are_where_the_indices_say(model, groups):
    packed = pack(groups)
    with torch.no_grad():
        states = hidden_states(model.model, packed)
        for number, group in enumerate(groups):
            expected = model.model(torch.tensor([group.prompt])).last_hidden_state[0, -1]
            torch.testing.assert_close(states[packed.prompt_index[number]], expected, atol=1e-5, rtol=1e-5)
        pairs = [(group.prompt, response) for group in groups for response in group.responses]
        for number, (prompt, response) in enumerate(pairs):
            expected = model.model(torch.tensor([prompt + response])).last_hidden_state[0, -1]
            torch.testing.assert_close(states[packed.response_end_index[number]], expected, atol=1e-5, rtol=1e-5)
    assert packed.group_index.tolist() == [n for n, group in enumerate(groups) for _ in group.responses]


def test_a_prompt_and_its_extensions_are_computed_once():
    first, second = [1, 2, 3], [1, 2, 3, 4, 5]
    packed = pack([Group(first, [[7, 8], [9]]), Group(second, [[10]]), Group([2], [[3]])])
    assert packed.input_ids.tolist() == [[1, 2, 3, 7, 8, 9, 4, 5, 10], [2, 3, 0, 0, 0, 0, 0, 0, 0]]
    assert packed.position_ids.tolist()[0] == [0, 1, 2, 3, 4, 3, 3, 4, 5]
    assert packed.trunk_token_index.tolist() == [1, 2, 6, 7]
    assert packed.trunk_predict_index.tolist() == [0, 1, 2, 6]


def test_a_branch_sees_only_its_prompt_and_itself():
    packed = pack([Group([1, 2], [[3, 4], [5]]), Group([1, 2, 6], [[7]])])
    seen = packed.attention_mask[0, 0] == 0
    assert [row.nonzero().flatten().tolist() for row in seen] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 4],
        [0, 1, 5],
        [0, 1, 5, 6],
    ]


def test_gradients_equal_those_of_separate_forwards_also_in_chunks(model):
    groups = [Group([1, 2, 3], [[4, 5], [6, 7, 8]]), Group([1, 2, 3, 9], [[10, 11]])]
    weights = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.7, -0.2, 1.1])

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    pairs = [(group.prompt, response) for group in groups for response in group.responses]
    expected = gradient((torch.cat([naive(model, *pair)[0] for pair in pairs]).float() * weights).sum())
    for chunk_logits in (1 << 20, 2 * VOCABULARY):
        scores = token_logprobs(model, pack(groups), chunk_logits=chunk_logits)
        torch.testing.assert_close(gradient((scores.logprobs * weights).sum()), expected, atol=1e-4, rtol=1e-4)


def test_chunks_bound_the_logits_held_at_once():
    largest = 0

    class Head(torch.nn.Linear):
        def forward(self, states):
            nonlocal largest
            largest = max(largest, len(states) * self.weight.shape[0])
            return super().forward(states)

    head = Head(4, 50)
    states = torch.randn(100, 4, requires_grad=True)
    score_tokens(states, head, torch.zeros(100, dtype=torch.long), chunk_logits=400).logprobs.sum().backward()
    assert largest == 400


def test_impossible_tokens_do_not_make_the_entropy_nan():
    head = torch.nn.Linear(2, 3)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, float("-inf")]))
    scores = score_tokens(torch.zeros(1, 2), head, torch.tensor([0]))
    assert scores.entropy.item() == pytest.approx(0.6931472)


@settings(max_examples=20)
@given(groups=conversations(), size=st.integers(1, 80))
def test_batches_hold_every_group_once_within_the_budget(groups, size):
    seen = []
    for numbers, packed in pack_batches(groups, size):
        seen += numbers
        assert packed.input_ids.numel() <= size or len(packed.input_ids) == 1
        assert packed.tokens.tolist() == [t for n in numbers for response in groups[n].responses for t in response]
    assert sorted(seen) == list(range(len(groups)))


def test_learnt_positions_follow_the_branch_too():
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.4)
    model = GPT2LMHeadModel(config).eval()
    groups = [Group([1, 2], [[3, 4], [5]]), Group([1, 2, 6], [[7, 8]])]
    with torch.no_grad():
        scores = token_logprobs(model, pack(groups))
        expected = torch.cat([naive(model, g.prompt, response)[0] for g in groups for response in g.responses])
    torch.testing.assert_close(scores.logprobs.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("groups", [[], [Group([], [[1]])], [Group([1], [[]])]])
def test_nothing_to_predict_is_refused(groups):
    with pytest.raises(ValueError, match=r"pack|empty"):
        pack(groups)


@settings(max_examples=30)
@given(
    opening=ids,
    turns=st.lists(st.tuples(ids, ids, st.booleans()), min_size=1, max_size=4),
    others=st.lists(ids, max_size=1),
)
def test_a_suggestion_that_the_history_goes_on_with_is_read_in_the_trunk(model, opening, turns, others):
    """Of a log: what was suggested is in the next prompt, but where a note or a rewording took its place."""
    groups, prompt = [], opening
    for suggestion, message, kept in turns:
        groups.append(Group(prompt, [suggestion, *others]))
        prompt = prompt + (suggestion if kept else []) + message
    (numbers, packed), *rest = pack_batches(groups, 1 << 10)
    assert (numbers, rest) == (list(range(len(groups))), [])
    whole = [group.prompt + response for group in groups for response in group.responses]
    with torch.no_grad():
        states = hidden_states(model.model, packed)
        expected = torch.stack([model.model(torch.tensor([each])).last_hidden_state[0, -1] for each in whole])
        torch.testing.assert_close(states[packed.response_end_index], expected, atol=1e-5, rtol=1e-5)
    if all(kept for _, _, kept in turns[:-1]) and not others:
        assert packed.input_ids.tolist() == [whole[-1]]
        assert packed.causal


def test_rows_without_branches_come_together(model):
    """One branch would cost its whole batch the mask."""
    log = [Group([1, 2], [[3]]), Group([1, 2, 3, 4], [[5]])]
    forgotten = [Group([6, 2], [[3]]), Group([6, 2, 7], [[5]])]
    batches = {tuple(numbers): packed.causal for numbers, packed in pack_batches([*log, *forgotten], 1 << 10)}
    assert batches == {(0, 1): True, (2, 3): False}
    assert not pack([*log, *forgotten]).causal

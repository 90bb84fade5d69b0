import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ippo_trainer.models import decoding, sampling
from ippo_trainer.models.cache import PrefixMemory, RaggedCache
from ippo_trainer.models.decoding import Decode
from ippo_trainer.models.forks import ForkDecode
from ippo_trainer.models.packing import Group, pack
from ippo_trainer.models.sampling import Sampling, sample
from ippo_trainer.models.scoring import token_logprobs
from transformers import GPT2Config, GPT2LMHeadModel

from tests.kit.tiny_models import tiny_model

VOCABULARY = 11
STOP = 1


@pytest.fixture(scope="module")
def model():
    """In double: in float32 a draw falls between two roundings of one boundary about once in 100,000 times."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    return tiny_model("llama", VOCABULARY, seed=0, initializer_range=0.5, **sizes).double()


def draw(model, prompts, **changes):
    keys = changes.pop("keys", [100 + number for number in range(len(prompts))])
    rest = {name: changes.pop(name) for name in ("memory", "slots") if name in changes}
    options = {"samples": 1, "max_new_tokens": 6, "temperature": 1.0, "stop_ids": {STOP}, "pad_id": 0}
    return sample(model, prompts, keys, Sampling(**(options | changes)), **rest)


def mixed_prompts(count, seed=0, longest=20):
    generator = np.random.default_rng(seed)
    return [generator.integers(2, VOCABULARY, generator.integers(1, longest)).tolist() for _ in range(count)]


def assert_same(first, second):
    assert [[r.ids for r in rows] for rows in first] == [[r.ids for r in rows] for rows in second]
    for mine, theirs in zip(first, second, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
            assert one.ended == other.ended


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_equal_a_forward_over_prompt_and_response(model, temperature):
    prompts = mixed_prompts(30)
    results = draw(model, prompts, samples=3, temperature=temperature)
    groups = [Group(prompt, [r.ids for r in rows]) for prompt, rows in zip(prompts, results, strict=True)]
    with torch.no_grad():
        expected = token_logprobs(model, pack(groups), temperature).logprobs
    actual = torch.tensor([value for rows in results for r in rows for value in r.logprobs])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_a_response_ends_with_its_first_stop_token_or_is_cut_off(model):
    responses = [r for rows in draw(model, mixed_prompts(60), samples=4) for r in rows]
    for response in responses:
        assert STOP not in response.ids[:-1]
        assert response.ended == (response.ids[-1] == STOP)
        assert response.ended or len(response.ids) == 6
        assert len(response.logprobs) == len(response.ids)
    assert {response.ended for response in responses} == {True, False}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_softmax(model, temperature):
    count = 20_000
    prompt = [3, 7, 2]
    rows = draw(model, [prompt], samples=count, max_new_tokens=2, temperature=temperature, stop_ids=set())[0]
    first = np.bincount([r.ids[0] for r in rows], minlength=VOCABULARY)
    with torch.no_grad():
        table = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1).numpy()
        common = int(first.argmax())
        after = (model(torch.tensor([[*prompt, common]])).logits[0, -1].double() / temperature).softmax(-1).numpy()
    second = np.bincount([r.ids[1] for r in rows if r.ids[0] == common], minlength=VOCABULARY)
    for observed, probabilities in ((first, table), (second, after)):
        expected = probabilities * observed.sum()
        kept = expected > 5
        statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
        # The 99.9 % point of chi-square with 10 degrees of freedom, the most there can be here.
        assert statistic < 29.6
        assert kept.sum() >= 3


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_min_p_never_draws_what_is_unlikely_and_flattens_the_rest(model, temperature):
    prompt, share = [3, 7, 2], 0.3
    rows = draw(model, [prompt], samples=4000, max_new_tokens=1, temperature=temperature, min_p=share, stop_ids=set())
    with torch.no_grad():
        table = model(torch.tensor([prompt])).logits[0, -1].double()
    allowed = table >= table.max() + np.log(share)
    expected = (table / temperature).masked_fill(~allowed, -torch.inf).softmax(-1).numpy()
    drawn = [r.ids[0] for r in rows[0]]
    assert set(drawn) == set(np.flatnonzero(allowed.numpy()).tolist())
    assert 1 < allowed.sum() < VOCABULARY
    np.testing.assert_allclose(np.bincount(drawn, minlength=VOCABULARY) / 4000, expected, atol=0.04)
    for response in rows[0]:
        assert response.logprobs[0] == pytest.approx(np.log(expected[response.ids[0]]), abs=1e-5)


@pytest.mark.parametrize("min_p", [-0.1, 1.1])
def test_a_min_p_that_is_no_share_is_refused(model, min_p):
    with pytest.raises(ValueError, match="min-p"):
        draw(model, [[3]], min_p=min_p)


def test_neither_batch_nor_order_nor_budget_changes_the_samples(model):
    prompts = mixed_prompts(40)
    keys = [7 * number + 1 for number in range(40)]
    expected = draw(model, prompts, keys=keys, samples=2)
    for tokens in (1, 64, 500):
        assert_same(draw(model, prompts, keys=keys, samples=2, batch_tokens=tokens), expected)
    alone = [draw(model, [prompts[n]], keys=[keys[n]], samples=2)[0] for n in range(40)]
    assert_same(alone, expected)
    backwards = draw(model, prompts[::-1], keys=keys[::-1], samples=2)
    assert_same(backwards[::-1], expected)


def test_keys_samples_and_positions_have_streams_of_their_own(model):
    prompt = [3, 7, 2]
    rows = draw(model, [prompt, prompt, prompt], keys=[5, 5, 6], samples=50)
    assert_same([rows[0]], [rows[1]])
    assert [r.ids for r in rows[0]] != [r.ids for r in rows[2]]
    assert len({tuple(r.ids) for r in rows[0]}) > 10
    table = decoding.uniforms(np.arange(200, dtype=np.uint64), np.zeros(200, np.int64), 50)
    assert abs(np.corrcoef(table[:, 0], table[:, 1])[0, 1]) < 0.25
    assert table.mean() == pytest.approx(0.5, abs=0.01)
    assert (table >= 0).all()
    assert (table < 1).all()


def test_finished_rows_leave_the_batch(model, monkeypatch):
    rows = []
    plain = decoding.forward

    def spy(decoder, cache, tokens, *rest, **more):
        rows.append(tokens.shape)
        return plain(decoder, cache, tokens, *rest, **more)

    monkeypatch.setattr(decoding, "forward", spy)
    results = draw(model, mixed_prompts(200), max_new_tokens=30)
    steps = [shape[0] for shape in rows if shape[1] == 1]
    running = [sum(len(row[0].ids) > step + 1 for row in results) for step in range(len(steps))]
    assert len(steps) == max(len(row[0].ids) for row in results) - 1
    assert steps == running


def test_a_prompt_that_others_extend_is_computed_once(model, monkeypatch):
    shapes = []
    plain = sampling._run_trunks
    monkeypatch.setattr(
        sampling, "_run_trunks", lambda part, *rest: shapes.append([t.ids for t in part]) or plain(part, *rest)
    )
    states = [[3, 4], [3, 4, 5, 6], [3, 4, 5, 6, 7, 8], [9], [3, 4]]
    results = draw(model, states, samples=2)
    assert shapes == [[[9]], [[3, 4, 5, 6, 7, 8]]] or shapes == [[[9], [3, 4, 5, 6, 7, 8]]]
    alone = [draw(model, [state], keys=[100 + n], samples=2)[0] for n, state in enumerate(states)]
    assert_same(results, alone)


@settings(max_examples=25)
@given(data=st.data())
def test_memory_of_earlier_turns_changes_nothing(model, data):
    memory = PrefixMemory(patience=data.draw(st.integers(0, 3)))
    prompts = dict(enumerate(mixed_prompts(data.draw(st.integers(1, 8)), data.draw(st.integers(0, 99)), longest=8)))
    tokens = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=5)
    samples = data.draw(st.integers(1, 2))
    for turn in range(4):
        slots = data.draw(st.permutations(sorted(prompts)))
        slots = slots[: data.draw(st.integers(1, len(slots)))]
        keys = [1000 * turn + slot for slot in slots]
        states = [prompts[slot] for slot in slots]
        budget = data.draw(st.sampled_from([40, 4000]))
        options = {"keys": keys, "samples": samples}
        found = draw(model, states, **options, memory=memory, slots=slots, batch_tokens=budget)
        assert_same(found, draw(model, states, **options))
        for slot, rows in zip(slots, found, strict=True):
            continued = prompts[slot] + rows[0].ids + data.draw(tokens)
            # A truncated history starts elsewhere; it is never empty.
            lost = data.draw(st.integers(0, min(3, len(continued) - 1)))
            prompts[slot] = continued if data.draw(st.booleans()) else continued[lost:]
        for slot in set(prompts).difference(slots):  # somebody else had the turn
            prompts[slot] = prompts[slot] + data.draw(tokens)
        prompts = {slot: prompt for slot, prompt in prompts.items() if data.draw(st.booleans())} or prompts


@pytest.fixture
def widths(monkeypatch):
    """Tokens of a row of every forward."""
    seen = []
    plain = decoding.forward
    monkeypatch.setattr(
        decoding,
        "forward",
        lambda decoder, cache, tokens, *rest, **more: (
            seen.append(tokens.shape[1]) or plain(decoder, cache, tokens, *rest, **more)
        ),
    )
    return seen


def test_memory_saves_the_work_it_is_for_and_keeps_to_its_limit(model, widths):
    prompt = list(range(2, 11)) * 3
    for limit, expected in ((1 << 20, 3), (0, 29)):
        memory = PrefixMemory(limit)
        first = draw(model, [prompt], memory=memory, slots=[4])[0][0]
        assert len(memory.entries) == (limit > 0)
        widths.clear()
        draw(model, [prompt + first.ids + [5, 6]], memory=memory, slots=[4])
        assert widths[0] == expected + (0 if limit else len(first.ids))


def test_a_prefix_is_kept_while_others_have_the_turns(model, widths):
    """Within its own bytes, not with the batch that it was in, and for so many calls."""
    prompt = list(range(2, 11)) * 2
    patience = 5
    for pauses in (1, patience, patience + 1):
        memory = PrefixMemory(patience=patience)
        draw(model, [[*prompt, other] for other in range(8)], memory=memory, slots=range(8))
        batch = memory.entries[3].cache.nbytes
        for _ in range(pauses):
            draw(model, [[5, 6]], memory=memory, slots=[100])
        kept = memory.entries.get(3)
        assert (kept is None) == (pauses > patience)
        if kept is not None:
            assert kept.cache.nbytes <= batch
            widths.clear()
            draw(model, [[*prompt, 3, 9, 10]], memory=memory, slots=[3])
            assert widths[0] <= 3


def test_a_conversation_that_is_over_takes_no_room_where_nobody_else_has_turns(model):
    memory = PrefixMemory()
    prompts = [[*range(2, 11), other] for other in range(8)]
    for left in range(8, 0, -1):
        draw(model, prompts[:left], memory=memory, slots=range(left))
        assert sorted(memory.entries) == list(range(left))


def test_what_is_kept_of_others_leaves_room_for_the_newest(model):
    prompts = [[*range(2, 11), other] for other in range(8)]
    probe = PrefixMemory()
    draw(model, prompts[:1], memory=probe, slots=[0], batch_tokens=1)
    row = next(iter(probe.entries.values())).cache.nbytes
    for rows in (1, 2, 5):
        memory = PrefixMemory(rows * row, len(prompts))
        for number, prompt in enumerate(prompts):
            draw(model, [prompt], memory=memory, slots=[number], batch_tokens=1)
            caches = {id(entry.cache): entry.cache.nbytes for entry in memory.entries.values()}
            assert number in memory.entries
            assert sum(caches.values()) <= rows * row
        newest = sorted(memory.entries)
        assert newest == list(range(8 - len(newest), 8))
        assert len(newest) >= rows


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_caches_of_a_calls_batches_are_not_all_there_at_once(model, monkeypatch, kept):
    """As many as are remembered, whatever the number of batches."""
    alive = []
    plain = sampling._prefill

    def caches():
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, RaggedCache)]

    others = caches()  # of tests before, held so that they do not go in the middle of this one

    def counted(*arguments):
        alive.append(len(caches()) - len(others))
        return plain(*arguments)

    monkeypatch.setattr(sampling, "_prefill", counted)
    prompts = [[2 + n, 3, 4, 5] for n in range(8)]
    probe = PrefixMemory()
    draw(model, prompts[:1], memory=probe, slots=[0])
    size = next(iter(probe.entries.values())).cache.nbytes
    del probe
    alive.clear()
    memory = PrefixMemory(kept * size)
    draw(model, prompts, memory=memory, slots=range(8), batch_tokens=1)
    assert alive == [min(kept, n) for n in range(8)]
    assert len(memory.entries) == kept


def test_learnt_positions_and_many_heads_work_too():
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.4)
    model = GPT2LMHeadModel(config).eval()
    prompts = mixed_prompts(10)
    results = draw(model, prompts)
    groups = [Group(prompt, [rows[0].ids]) for prompt, rows in zip(prompts, results, strict=True)]
    with torch.no_grad():
        expected = token_logprobs(model, pack(groups)).logprobs
    actual = torch.tensor([value for rows in results for value in rows[0].logprobs])
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_a_token_of_probability_zero_is_never_drawn(model):
    banned = 4
    handle = model.lm_head.register_forward_hook(
        lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor([banned]), float("-inf"))
    )
    try:
        rows = draw(model, [[3]], samples=3000, stop_ids=set())[0]
    finally:
        handle.remove()
    assert all(banned not in row.ids for row in rows)
    assert all(np.isfinite(row.logprobs).all() for row in rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"max_new_tokens": 0},
        {"samples": 0},
        {"keys": [1]},
        {"memory": PrefixMemory()},
    ],
)
def test_senseless_arguments_are_refused(model, changes):
    with pytest.raises(ValueError, match=r"must|need|together"):
        draw(model, [[2], [3]], **changes)


def test_no_prompts_give_no_responses_and_an_empty_prompt_is_refused(model):
    assert draw(model, []) == []
    with pytest.raises(ValueError, match="empty"):
        draw(model, [[2], []])


def in_rows(monkeypatch):
    """No prompt is long enough for branches."""
    monkeypatch.setattr(ForkDecode, "pays", lambda length, sampling: False)


def in_forks(monkeypatch):
    monkeypatch.setattr(ForkDecode, "pays", lambda length, sampling: True)


@pytest.mark.parametrize("budget", [1, 300, 4000])
@pytest.mark.parametrize("samples", [1, 2, 9])
def test_branches_of_a_prompt_draw_what_rows_of_their_own_draw(model, monkeypatch, samples, budget):
    prompts = mixed_prompts(40, seed=samples)
    prompts += [[*prompt, 3, 4] for prompt in prompts[:10]] + prompts[:3]
    in_rows(monkeypatch)
    expected = draw(model, prompts, samples=samples, max_new_tokens=12)
    in_forks(monkeypatch)
    assert_same(draw(model, prompts, samples=samples, max_new_tokens=12, batch_tokens=budget), expected)


def test_branches_know_the_memory_of_earlier_turns(model, monkeypatch):
    in_forks(monkeypatch)
    memory, slots = PrefixMemory(), range(12)
    prompts = mixed_prompts(12, seed=3)
    for _ in range(3):
        rows = draw(model, prompts, samples=3, memory=memory, slots=slots)
        assert all(memory.entries[slot].ids == prompt for slot, prompt in enumerate(prompts))
        assert_same(rows, draw(model, prompts, samples=3))
        prompts = [prompt + each[1].ids + [5] for prompt, each in zip(prompts, rows, strict=True)]


def test_a_prompts_keys_are_held_once_and_leave_with_its_last_branch(model, monkeypatch):
    rows, caches = [], []
    plain = RaggedCache.place

    def spy(cache, positions, **more):
        if not more["plain"]:
            rows.append(len(positions))
            caches.append(cache)
        plain(cache, positions, **more)

    monkeypatch.setattr(RaggedCache, "place", spy)
    prompts = [[2 + n % 9] * 100 for n in range(30)]
    results = draw(model, prompts, samples=8, max_new_tokens=20)
    longest = [max(len(response.ids) for response in each) for each in results]
    assert rows == [sum(length > step + 1 for length in longest) for step in range(max(longest) - 1)]
    assert {cache.layers[0].keys.shape[0] for cache in caches} == {30}
    assert {cache.layers[0].capacity for cache in caches} == {100 + 8 * 20}


@pytest.mark.parametrize(("length", "samples", "expected"), [(100, 8, ForkDecode), (3, 8, Decode), (100, 1, Decode)])
def test_a_short_prompt_and_a_single_response_have_rows_of_their_own(model, monkeypatch, length, samples, expected):
    kinds = []
    for kind in (Decode, ForkDecode):
        finish = kind.finish
        monkeypatch.setattr(kind, "finish", lambda run, finish=finish: kinds.append(type(run)) or finish(run))
    draw(model, [[2] * length], samples=samples, max_new_tokens=20)
    assert kinds == [expected]


def test_what_is_drawn_at_once_is_bounded_whatever_the_vocabulary(model, monkeypatch):
    monkeypatch.setattr(sampling, "CPU_BATCH_BYTES", 64 * 16 * VOCABULARY)
    drawn, plain = [], Decode._draw
    monkeypatch.setattr(
        Decode, "_draw", lambda run, responses, step: drawn.append(len(responses)) or plain(run, responses, step)
    )
    draw(model, mixed_prompts(50, longest=60), samples=8, batch_tokens=1 << 20)
    assert max(drawn) == 64

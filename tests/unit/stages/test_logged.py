"""Which side of the split a conversation is on."""

from hypothesis import given
from hypothesis import strategies as st
from ippo_trainer.data.schema import Conversation, Turn
from ippo_trainer.stages.logged import Separation, finished

CONVERSATIONS = st.lists(st.tuples(st.sampled_from(["", "ann", "bob", "cem", "dot"]), st.booleans()), max_size=20)


@given(CONVERSATIONS, st.integers(0, 5))
def test_a_customer_is_on_one_side_with_open_conversations_too(rows: list[tuple[str, bool]], seed: int) -> None:
    log = [
        Conversation(str(number), [Turn("hello", "hi", "accepted", "hi")], censored=censored, customer_id=customer)
        for number, (customer, censored) in enumerate(rows)
    ]
    train, held = Separation(0.4, seed).sides(log)
    assert sorted(train + held, key=lambda each: int(each.id)) == log
    assert not {each.customer_id for each in train} & {each.customer_id for each in held} - {""}
    # Whoever reads finished conversations alone has the same sides.
    again = Separation(0.4, seed).sides(finished(log))
    assert (finished(train), finished(held)) == again

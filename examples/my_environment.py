"""Your own simulator, in plain Python: nothing of the package is imported. See docs/tutorials/simulator.md."""

import random

LINES = ["which tea do you like", "i can offer you a box of tea", "tea is good for you", None]


class TeaShop:
    """Sells tea. Customers who were asked for their taste first buy more often."""

    max_turns = 4
    system_prompt = "You sell tea."

    def __init__(self, asked="0.6", unasked="0.1"):
        self.asked, self.unasked = float(asked), float(unasked)

    def reset(self, seeds):
        # A random stream for each conversation: who else is in the batch must not matter.
        streams = [random.Random(seed) for seed in seeds]  # noqa: S311
        self.open = [{"random": stream, "turn": 0, "asked": False} for stream in streams]
        return ["hello what do you have" for _ in seeds]

    def step(self, suggestions):
        steps = [self._turn(talk, text) for talk, text in zip(self.open, suggestions, strict=True)]
        self.open = [talk for talk, step in zip(self.open, steps, strict=True) if step["customer_message"] is not None]
        return steps

    def _turn(self, talk, text):
        sent = text or "one moment please"
        chance = 0.0 if "offer" not in sent else self.asked if talk["asked"] else self.unasked
        outcome = talk["random"].random() < chance
        talk.update(turn=talk["turn"] + 1, asked=talk["asked"] or "which" in sent)
        reply = "green tea please" if "which" in sent else "let me think"
        answer = None if outcome or talk["turn"] == self.max_turns else reply
        reaction = "accepted" if text else "rejected"
        return {"reaction": reaction, "sent_message": sent, "customer_message": answer, "outcome": outcome}

    def demonstrate(self):
        return [talk["random"].choice(LINES) for talk in self.open]

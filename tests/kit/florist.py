"""A stranger's simulator and chat log: plain Python that knows nothing of the package."""

import json
import random
from pathlib import Path
from typing import Any

SIMULATOR = '''
import random
from dataclasses import dataclass


@dataclass
class Step:
    reaction: str
    sent_message: str
    customer_message: str | None
    outcome: bool
    censored: bool = False
    displayed: bool = True


class Florist:
    """Buys a bouquet, sooner when asked for the colour first; talk about the weather sells nothing."""

    max_turns = 3
    system_prompt = "You sell flowers."

    def __init__(self, sale="0.5"):
        self.sale = float(sale)

    def reset(self, seeds):
        self.open = [[random.Random(seed), 0, False] for seed in seeds]
        return ["hello i need flowers" for _ in seeds]

    def step(self, suggestions):
        steps, still = [], []
        for conversation, text in zip(self.open, suggestions):
            rng, turn, asked = conversation
            sent = text or "one moment please"
            outcome = "bouquet" in sent and rng.random() < (0.95 if asked else self.sale)
            over = outcome or turn + 1 == self.max_turns
            reply = "red please" if "colour" in sent else "hm"
            steps.append(Step("accepted" if text else "rejected", sent, None if over else reply, outcome))
            if not over:
                still.append([rng, turn + 1, asked or "colour" in sent])
        self.open = still
        return steps
'''


def environment(folder: Path, **options: str) -> dict[str, Any]:
    """Writes the simulator into `folder`; returns the manifest's section that names it."""
    (folder / "florist.py").write_text(SIMULATOR)
    return {"name": f"{folder}/florist.py:Florist", "options": options}


def chat_log(path: Path, conversations: int) -> str:
    """A log of a business that mostly talks about the weather, as a file:// URI."""
    rng = random.Random(1)
    lines = ["which colour would you like", "shall i wrap a bouquet for you", "lovely weather today"]
    with path.open("w") as file:
        for number in range(conversations):
            messages = [{"role": "user", "content": "hello i need flowers"}]
            for _ in range(rng.randint(1, 3)):
                messages.append({"role": "assistant", "content": rng.choice(lines)})
                messages.append({"role": "user", "content": rng.choice(["red please", "hm"])})
            outcome = rng.random() < 0.3
            file.write(json.dumps({"conversation_id": f"c{number}", "messages": messages, "outcome": outcome}) + "\n")
    return f"file://{path}"

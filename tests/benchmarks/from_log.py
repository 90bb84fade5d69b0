"""From a log to a better policy, with no simulator in the run: how much of the optimum one improvement is worth.

The funnel's base policy writes a log of conversations as an OpenAI-style export. A run of one iteration learns from it,
and its candidate waits for approval. Then, outside the run, the candidate holds conversations in the funnel and is
scored against the exact solution. Prints a row for each kind of log.

    python tests/benchmarks/from_log.py --out FOLDER --kinds plain censored mixed
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ippo_trainer.contract import params
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments import load
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.environments.protocol import as_opening

sys.path.insert(0, str(Path(__file__).parent))
from learning import change_fields

EXAMPLE = Path(__file__).parents[2] / "examples" / "sr-funnel.yaml"
FUNNEL = params.EnvironmentSpec(name="sr-funnel")
KINDS = ("plain", "censored", "mixed")
CENSORED, OTHERS = 0.3, 1 / 3
_BIN = Path(sys.executable).parent


def main() -> None:
    """Writes the logs, runs what is not done yet, and prints how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["plain"])
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="e.g. improve.algorithm='\"PPO\"'"
    )
    given = parser.parse_args()
    for kind in given.kinds:
        for seed in range(given.seeds):
            folder = given.out / f"{kind}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            share = carry_out(folder, kind, seed, given.conversations, given.set)
            came_to = f"no candidate, see {folder / 'log'}" if share is None else f"{share:.3f} of the optimum, exactly"
            print(f"{kind:9} seed {seed}: {came_to}")


def carry_out(folder: Path, kind: str, seed: int, count: int, changes: list[str]) -> float | None:
    """The exact value of the candidate as a share of the optimum, None where the run came to none.

    What is done already is not done again.
    """
    log = folder / "log.jsonl"
    if not log.exists():
        log.write_text("".join(json.dumps(line) + "\n" for line in export(kind, seed, count)))
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(manifest(log, kind, seed, changes)))
    command = [str(_BIN / "ippo"), "run", "-f", str(path), "--out", str(folder / "run")]
    with (folder / "log").open("a") as text:
        subprocess.run(command, stdout=text, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    candidates = folder / "run" / "artifacts" / "iterations" / "0001" / "policy"
    candidate = next((path.parent for path in candidates.glob("*/manifest.json")), None)
    if candidate is None:
        return None
    command = [str(_BIN / "ippo"), "exact", "--env", "sr-funnel", "--json", "--policy", str(candidate)]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    value: float = answer["policies"][-1]["value"]
    return value / float(answer["optimum"])


def export(kind: str, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """The lines of a log. Of a mixed one, a third of the conversations are another writer's, who only ever asks."""
    rng = np.random.default_rng([seed, 14])
    conversations = demonstrate(load(FUNNEL), [int(n) for n in rng.integers(0, 2**62, count)], FUNNEL.name)
    for number, conversation in enumerate(conversations):
        line = exported(conversation, number)
        if kind == "censored" and rng.random() < CENSORED:
            turns = int(rng.integers(1, len(conversation.turns) + 1))
            line = {**line, "outcome": None, "messages": line["messages"][: 2 * turns]}
        if kind == "mixed" and rng.random() < OTHERS:
            line = {**exported(other(int(rng.integers(0, 2**62))), number), "writer": "night shift"}
        yield line


def exported(conversation: Conversation, number: int) -> dict[str, Any]:
    """As OpenAI's exports have it, with what was suggested and what became of it beside the messages."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You sell."}]
    for turn in conversation.turns:
        messages.append({"role": "user", "content": [{"type": "text", "text": turn.customer_message}]})
        suggested = {"suggestion": turn.suggestion, "reaction": turn.reaction}
        messages.append({"role": "assistant", "content": turn.sent_message, **suggested})
    return {"id": f"chat-{number}", "messages": messages[1:], "outcome": conversation.outcome}


def other(seed: int) -> Conversation:
    """A conversation of somebody who says the first thing that the business ever says, always."""
    environment: Any = load(FUNNEL)
    [opening] = environment.reset([seed])
    message: str | None = as_opening(opening).customer_message
    conversation = Conversation("other")
    words = environment.wordings[environment.intents[0]][0]
    from ippo_trainer.data.schema import Turn

    while message is not None:
        [step] = environment.step([words])
        conversation.turns.append(Turn(message, words, step.reaction, step.sent_message, behaviour="log"))
        conversation.outcome, message = step.outcome, step.customer_message
    return conversation


def manifest(log: Path, kind: str, seed: int, changes: list[str]) -> dict[str, Any]:
    """The demo's run, with the log in place of its simulator."""
    value: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    spec, uri = value["spec"], f"file://{log.resolve()}"
    writers = {"writers": ["people"]} if kind == "mixed" else {}
    learnt = {name: setting for name, setting in spec["warmStart"].items() if name != "demonstrations"}
    spec |= {
        "seed": seed,
        "threads": 1,
        "iterations": {"max": 1},
        "warmStart": {**learnt, "conversations": uri, **writers},
        "collect": {"history": {"conversations": uri, **writers}},
    }
    spec["policy"]["systemPrompt"] = getattr(load(FUNNEL), "system_prompt", "")
    change_fields(spec, changes)
    return value


if __name__ == "__main__":
    main()

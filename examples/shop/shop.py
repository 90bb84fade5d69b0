"""A shop with customers: plays both sides of an environment against a gateway, over HTTP.

Each conversation asks the gateway for suggestions, hands them to the environment's business, tells the gateway what
became of them and what came of it all. It depends on its seed and on the suggestions: equal seeds are equal customers.

    python examples/shop/shop.py --url http://localhost:8080 --conversations 2000
    python examples/shop/shop.py --log runs/shop.jsonl --conversations 2000     the business by itself; no gateway
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from ippo_trainer.contract.digests import derive_seed
from ippo_trainer.contract.errors import StageError
from ippo_trainer.contract.params import EnvironmentSpec
from ippo_trainer.data.schema import Conversation
from ippo_trainer.environments import load
from ippo_trainer.environments.demonstrations import demonstrate
from ippo_trainer.environments.protocol import Opening, Step
from ippo_trainer.gateway.client import GatewayClient, GatewayError, GatewaySuggestion, Reaction, Tries, Whose
from tqdm import tqdm

KEY = "IPPO_GATEWAY_KEY"
TRY_AGAIN = 75
TRY_SECONDS = 5.0
"""How long a gateway may take to say whether it is ready."""
TRIES = Tries(most=8)
LATER = {0, 408, 429, 500, 502, 503, 504}
"""Statuses that say nothing against the request."""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a log, or plays until all conversations are over; returns the exit code."""
    options = _parser().parse_args(argv)
    spec = EnvironmentSpec(name=options.environment, options=dict(options.option))
    try:
        if options.log is not None:
            return write_log(options.log, spec, options.seed, options.conversations)
        return asyncio.run(Shop(options, spec).play())
    except StageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except GatewayError as error:
        print(f"{options.url}: {error}", file=sys.stderr)
        return TRY_AGAIN if error.status in LATER else 1


class Shop:
    """Many conversations at once with one gateway."""

    def __init__(self, options: argparse.Namespace, spec: EnvironmentSpec, tries: Tries = TRIES) -> None:
        self._options, self._spec, self._tries = options, spec, tries
        self._state = State(options.state, options.seed)
        self._stopping = False
        self._problem: GatewayError | None = None
        """Why it stops."""
        self._failures = 0
        """Conversations in a row that broke off."""
        self._over, self._outcomes, self._broken = 0, 0, 0

    async def play(self) -> int:
        """Holds all conversations; after Ctrl-C, those that have begun."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop)
        first, total = self._state.next, None if self._options.forever else self._options.conversations
        numbers = count(first) if total is None else iter(range(first, total))
        async with GatewayClient(self._options.url, os.environ.get(KEY, ""), self._tries) as gateway:
            await ready(self._options.url, self._options.wait)
            with tqdm(total=total, initial=first, unit=" conversations") as bar:
                await asyncio.gather(*(self._serve(gateway, numbers, bar) for _ in range(self._options.concurrency)))
        print(f"{self._over} conversations, {self._outcomes} with the outcome, {self._broken} broken off")
        if self._problem is not None:
            raise self._problem
        return 0

    def _stop(self) -> None:
        if self._stopping:
            os._exit(130)
        self._stopping = True

    async def _serve(self, gateway: GatewayClient, numbers: Iterator[int], bar: "tqdm[Any]") -> None:
        """One customer after the other, in an environment of this worker's own."""
        environment = await asyncio.to_thread(load, self._spec)
        while not self._stopping and (number := next(numbers, None)) is not None:
            self._state.begin(number)
            seed = derive_seed(self._options.seed, "shop", number)
            try:
                outcome = await converse(gateway, environment, f"shop-{self._options.seed}-{number}", seed)
            except GatewayError as error:
                self._broken, self._failures = self._broken + 1, self._failures + 1
                if not await self._goes_on(error):
                    self._problem, self._stopping = error, True
            else:
                self._failures = 0
                self._over, self._outcomes = self._over + 1, self._outcomes + outcome
            bar.update()
            bar.set_postfix(outcome=f"{self._outcomes / max(1, self._over):.1%}", broken=self._broken)

    async def _goes_on(self, error: GatewayError) -> bool:
        """Waits for a gateway that is away; whether it came back, and conversations did not all break off."""
        if error.status not in LATER or self._failures >= 8 * self._options.concurrency:
            return False
        try:
            await ready(self._options.url, self._options.patience)
        except GatewayError:
            return False
        return True


async def ready(url: str, seconds: float) -> None:
    """Waits for the gateway to take requests. Raises GatewayError if it does not in time.

    As long as the gateway's Service has no pod, a connection may lead to where nobody answers, or to somebody else:
    each try has a connection and a time of its own.
    """
    deadline, limit = time.monotonic() + seconds, aiohttp.ClientTimeout(total=TRY_SECONDS)
    async with aiohttp.ClientSession(timeout=limit, connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            try:
                async with session.get(f"{url.rstrip('/')}/readyz") as answer:
                    problem = await answer.text()
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = str(error) or f"no answer within {TRY_SECONDS:g} s"
            if time.monotonic() > deadline:
                raise GatewayError(0, f"not ready within {seconds:g} s: {problem}")
            await asyncio.sleep(0.5)


async def converse(gateway: GatewayClient, environment: Any, name: str, seed: int) -> bool:
    """Holds one conversation to its end and reports it; returns the outcome.

    Raises:
        GatewayError: the gateway refuses, or does not answer in all tries. The conversation stays open, and the gateway
            counts it as over once it is idle.
    """
    whose = Whose(conversation=name, customer=f"customer-{name}")
    [opening] = await asyncio.to_thread(environment.reset, [seed])
    options = {"context": opening.context} if opening.context else None
    messages = [said("user", opening.customer_message), *tools(opening)]
    while True:
        suggestion = await gateway.chat(messages, whose, options)
        [step] = await asyncio.to_thread(environment.step, [suggestion.text])
        await gateway.react(name, suggestion.turn, reaction(suggestion, step))
        if step.customer_message is None:
            break
        messages += [sent(suggestion, step), said("user", step.customer_message), *tools(step)]
    # A conversation that was cut off has an end, and no outcome that anybody knows.
    await gateway.close_conversation(name, outcome=None if step.censored else step.outcome)
    return step.outcome


def reaction(suggestion: GatewaySuggestion, step: Step) -> Reaction:
    """What the business did, as the gateway is told. It may reject a suggestion and write the very same words."""
    as_it_is = step.reaction == "accepted" and step.sent_message == suggestion.text
    return Reaction(step.reaction, sent=None if as_it_is else step.sent_message or None, suggestion_id=suggestion.id)


def said(role: str, text: str) -> dict[str, Any]:
    """A message of a conversation."""
    return {"role": role, "content": text}


def sent(suggestion: GatewaySuggestion, step: Step) -> dict[str, Any]:
    """The business's message, with what had been suggested."""
    return {**said("assistant", step.sent_message), "suggestion": suggestion.text, "reaction": step.reaction}


def tools(turn: Opening | Step) -> list[dict[str, Any]]:
    """What tools returned."""
    return [said("tool", str(message)) for message in turn.tool_messages]


class State:
    """Which conversations have begun, in a file if there is one: none is held twice."""

    def __init__(self, file: Path | None, seed: int) -> None:
        self._file, self._seed = file, str(seed)
        self._next: dict[str, int] = json.loads(file.read_text()) if file is not None and file.exists() else {}

    @property
    def next(self) -> int:
        """The first conversation that has not begun."""
        return self._next.get(self._seed, 0)

    def begin(self, number: int) -> None:
        """Takes note of a conversation before anybody is asked."""
        self._next[self._seed] = number + 1
        if self._file is not None:
            new = self._file.with_name(f".{self._file.name}.new")
            new.write_text(json.dumps(self._next))
            new.replace(self._file)


def write_log(path: Path, spec: EnvironmentSpec, seed: int, conversations: int) -> int:
    """Writes what the environment's own business says, a conversation a line; no gateway is asked."""
    seeds = [derive_seed(seed, "log", number) for number in range(conversations)]
    with tqdm(total=conversations, unit=" conversations") as bar:
        held = demonstrate(load(spec), seeds, spec.name, bar.update)
    with path.open("w", encoding="utf-8") as file:
        for conversation in held:
            file.write(json.dumps(line(conversation), ensure_ascii=False) + "\n")
    print(f"{path}: {len(held)} conversations, {sum(each.outcome for each in held)} with the outcome")
    return 0


def line(conversation: Conversation) -> dict[str, Any]:
    """A conversation as a chat log has it."""
    messages: list[dict[str, Any]] = []
    for turn in conversation.turns:
        business = {"suggestion": turn.suggestion, "reaction": turn.reaction}
        messages.append(said("user", turn.customer_message))
        messages += [said("tool", text) for text in turn.tool_messages]
        messages.append({**said("assistant", turn.sent_message), **business})
    context = {"context": conversation.context} if conversation.context else {}
    outcome = None if conversation.censored else conversation.outcome
    return {"conversation_id": conversation.id, **context, "messages": messages, "outcome": outcome}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help=f"of the gateway, such as http://localhost:8080; its key is read from ${KEY}")
    where.add_argument("--log", type=Path, metavar="FILE", help="write a log of the environment's own business instead")
    parser.add_argument("--environment", default="sr-funnel", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--option", action="append", type=_option, default=[], metavar="NAME=VALUE", help="of the environment"
    )
    parser.add_argument("--conversations", type=int, default=2000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--forever", action="store_true", help="as many as come until Ctrl-C")
    parser.add_argument("--concurrency", type=int, default=32, metavar="N", help="at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other customers (default: %(default)s)")
    parser.add_argument(
        "--wait", type=float, default=600, metavar="S", help="for the gateway, at the beginning (default: %(default)s)"
    )
    parser.add_argument(
        "--patience", type=float, default=60, metavar="S", help="with one that is away later (default: %(default)s)"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="remembers which conversations began, and goes on behind them"
    )
    return parser


def _option(text: str) -> tuple[str, str | int | bool]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is no NAME=VALUE")
    words = {"true": True, "false": False}
    return name, words.get(value, int(value) if value.lstrip("-").isdecimal() else value)


if __name__ == "__main__":
    sys.exit(main())

"""What logging costs a gateway: the same gateway with and without it, in turns, before a policy server that answers at
once.

    python tests/benchmarks/bench_gateway.py [--rounds 3] [--seconds 5]     requests/s and the 99th percentile
    python tests/benchmarks/bench_gateway.py --folder /dev/shm              without a disk: what is our own
    python tests/benchmarks/bench_gateway.py --events 1000000               memory over so many events

A conversation is two suggestions, two reactions and an end. Gateways, policy server and load share the machine's cores.
How long the disk takes by itself to sync a record is told, too: no answer can wait for less.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from ippo_trainer.gateway import process
from ippo_trainer.gateway.cli import main as gateway_main

from tests.kit.gateways import ACTIVE, routes

CONNECTIONS = 128
LEAST_RATIO, MOST_ADDED, MOST_GROWTH = 0.7, 0.010, 32 << 20
"""Of requests/s; seconds of the 99th percentile; bytes of memory."""
_TEXT = "what do red tulips cost, and can I have them on Friday before nine? " * 2
_MESSAGES = [
    {"role": "user", "content": _TEXT},
    {"role": "assistant", "content": _TEXT},
    {"role": "user", "content": _TEXT},
]


# The policy server: one canned answer, with an id of its own each time


def canned(choices: int) -> tuple[bytes, bytes]:
    """An answer around its id, of which all copies are in one place."""
    record = {
        "version": 1,
        "id": "@",
        "choice": 0,
        "conversation_id": "",
        "named": True,
        "customer_id": "",
        "group": "",
        "turn": 1,
        "message": _TEXT,
        "messages": _MESSAGES,
        "context": "",
        "suggestion": _TEXT,
        "token_ids": list(range(100, 132)),
        "logprobs": [-0.123456789] * 32,
        "finish_reason": "stop",
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.0,
        "policy_digest": ACTIVE,
        "started_at": 1.0,
        "time": 2.0,
    }
    made = [
        {
            "index": index,
            "message": {"role": "assistant", "content": _TEXT},
            "finish_reason": "stop",
            "abstained": False,
        }
        for index in range(choices)
    ]
    answer = {"id": "@", "model": ACTIVE, "turn": 1, "conversation_id": "c", "choices": made}
    before, _, after = json.dumps(answer | {"records": [record] * choices}).partition("@")
    return before.encode(), after.encode()


class Policy(asyncio.Protocol):
    """Answers every request at once."""

    numbers = itertools.count()
    answers = {choices: canned(choices) for choices in (1, 4)}

    def connection_made(self, transport: Any) -> None:
        """A gateway connects."""
        self._transport, self._buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            size = int(re.search(rb"(?i)content-length: (\d+)", self._buffer[:end])[1])
            if len(self._buffer) < end + 4 + size:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
            before, after = self.answers[4 if b'"n":4' in body else 1]
            name = f"chatcmpl-{next(self.numbers):012d}".encode()
            answer = before + name + after.replace(b"@", name)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
            self._transport.write(head + answer)


async def serve_policy(port: int) -> None:
    """Until it is killed."""
    server = await asyncio.get_running_loop().create_server(Policy, "127.0.0.1", port)
    await server.serve_forever()


# The gateways


class Nothing:
    """A log that logs nothing."""

    def __init__(self, _: object) -> None:
        pass

    async def add(self, events: Sequence[Any], fingerprint: bytes = b"") -> None:
        """Returns at once."""


@dataclass
class Gateway:
    """A gateway in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int
    internal: int

    def memory(self) -> int:
        """Bytes that it has resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) << 10

    def cpu(self) -> float:
        """Seconds of CPU that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(command: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """This program in another role."""
    running = subprocess.Popen([sys.executable, __file__, *command], stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(120)


@contextmanager
def gateway(role: str, folder: Path, policy: int) -> Iterator[Gateway]:
    """One that logs, or not."""
    folder.mkdir()
    said = routes(f"http://127.0.0.1:{policy}", "http://127.0.0.1:1")
    (folder / "routes.json").write_text(said.model_dump_json(by_alias=True, exclude_none=True))
    command = [f"--routes={folder}/routes.json", f"--journal={folder}/journal", f"--log=file://{folder}/live"]
    command += ["--port=0", "--internal-port=0", "--linger-seconds=0"]
    with started([role, *command]) as running:
        assert running.stderr is not None
        ports = []
        for line in running.stderr:
            ports += re.findall(r"listening on port (\d+)", line)
            if "ready" in line:
                break
        yield Gateway(running, int(ports[1]), int(ports[0]))


# The load


def request(path: str, body: dict[str, Any]) -> bytes:
    """As it goes over the wire."""
    text = json.dumps(body, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


@dataclass
class Load:
    """Conversations over a number of connections."""

    port: int
    choices: int = 1
    seconds: list[float] = field(default_factory=list)
    """Of each request."""
    requests: int = 0
    events: int = 0
    refused: int = 0
    """Requests that the gateway asked to make again."""
    names = itertools.count()

    def conversation(self) -> list[tuple[bytes, int]]:
        """Its requests, and the events of each."""
        name = f"bench-{next(self.names)}"
        chat = {"messages": _MESSAGES, "metadata": {"conversation_id": name}}
        chat |= {"n": self.choices} if self.choices > 1 else {}
        base, steps = f"/v1/conversations/{name}", []
        for turn in range(2):
            steps.append((request("/v1/chat/completions", chat), self.choices))
            steps.append((request(f"{base}/turns/{turn}/reaction", {"reaction": "accepted"}), 1))
        return [*steps, (request(f"{base}/close", {"outcome": True}), 1)]

    async def run(self, until: float, rate: float | None = None, events: int | None = None) -> None:
        """Asks until a moment of `time.perf_counter`, or for so many events.

        Args:
            until: when it ends.
            rate: requests/s; None for as many as get answers.
            events: after which it ends.
        """
        begin = time.perf_counter()

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
            due = begin if rate is None else begin + number / rate
            while time.perf_counter() < until and (events is None or self.events < events):
                for data, count in self.conversation():
                    if rate is not None:
                        await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    start = time.perf_counter() if rate is None else due
                    status = await exchange(reader, writer, data)
                    while status == 503 and events is not None:  # a busy machine: what is measured is no speed
                        self.refused += 1
                        await asyncio.sleep(1.0)
                        status = await exchange(reader, writer, data)
                    assert status == 200, status
                    self.seconds.append(time.perf_counter() - start)
                    self.requests += 1
                    self.events += count
                    due += CONNECTIONS / rate if rate is not None else 0.0
            writer.close()

        await asyncio.gather(*map(client, range(CONNECTIONS)))


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> int:
    """The status of the answer to a request; what it says is read and left."""
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
    return int(head.split(maxsplit=2)[1])


def percentile(values: Sequence[float], share: float) -> float:
    """By rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def compare(folder: Path, policy: int, rounds: int, seconds: float) -> bool:
    """Prints one line for each measure; whether they are good enough."""
    with gateway("plain", folder / "plain", policy) as plain, gateway("logging", folder / "logging", policy) as logging:
        both = {"plain": plain, "logging": logging}
        for each in both.values():
            asyncio.run(Load(each.port).run(time.perf_counter() + 1.0))  # warm
        speeds: dict[str, list[float]] = {name: [] for name in both}
        costs: dict[str, list[float]] = {name: [] for name in both}
        for _, (name, each) in itertools.product(range(rounds), both.items()):
            load, cpu, begin = Load(each.port), each.cpu(), time.perf_counter()
            asyncio.run(load.run(begin + seconds))
            speeds[name].append(load.requests / (time.perf_counter() - begin))
            costs[name].append((each.cpu() - cpu) / load.requests)
        ratio = statistics.median(a / b for a, b in zip(speeds["logging"], speeds["plain"], strict=True))
        rate = 0.4 * min(map(min, speeds.values()))
        late: dict[str, list[float]] = {name: [] for name in both}
        for _, (name, each) in itertools.product(range(rounds), both.items()):
            load = Load(each.port)
            asyncio.run(load.run(time.perf_counter() + seconds, rate))
            late[name].append(percentile(load.seconds, 0.99))
        added = statistics.median(a - b for a, b in zip(late["logging"], late["plain"], strict=True))
    speed = {name: f"{statistics.median(values):.0f}/s" for name, values in speeds.items()}
    cost = {name: f"{statistics.median(values) * 1e3:.2f} ms" for name, values in costs.items()}
    last = {name: f"{statistics.median(values) * 1e3:.1f} ms" for name, values in late.items()}
    disk = [f"{percentile(syncs(folder), share) * 1e3:.1f}" for share in (0.5, 0.99)]
    print(
        f"requests: {speed['logging']} with logging, {speed['plain']} without; ratio {ratio:.3f}, {LEAST_RATIO} wanted"
    )
    print(f"CPU of the gateway for each: {cost['logging']} with logging, {cost['plain']} without")
    print(f"99th percentile at {rate:.0f}/s: {last['logging']} with logging, {last['plain']} without")
    print(f"added: {added * 1e3:.1f} ms, {MOST_ADDED * 1e3:.0f} wanted")
    print(f"the disk by itself syncs in {disk[0]} ms, at the 99th percentile in {disk[1]}")
    return ratio >= LEAST_RATIO and added <= MOST_ADDED


def syncs(folder: Path) -> list[float]:
    """Seconds that the disk takes for one record each."""
    spent: list[float] = []
    with (folder / "sync").open("ab", buffering=0) as file:
        for _ in range(200):
            begin = time.perf_counter()
            file.write(b"x" * 2000)
            os.fdatasync(file.fileno())
            spent.append(time.perf_counter() - begin)
    return spent


def grow(folder: Path, policy: int, events: int) -> bool:
    """Prints memory at a tenth of the events and at the end; whether it stayed flat."""
    with gateway("logging", folder / "memory", policy) as it:
        load = Load(it.port, choices=4)
        points: list[tuple[int, int]] = []
        begin = time.perf_counter()
        for part in range(1, 11):
            asyncio.run(load.run(float("inf"), None, events * part // 10))
            load.seconds.clear()
            points.append((load.events, it.memory()))
            speed = load.events / (time.perf_counter() - begin)
            print(f"{load.events} events: {it.memory() >> 20} MiB, {speed:.0f} events/s", flush=True)
    growth = max(size for _, size in points[1:]) - points[0][1]
    print(f"{load.refused} requests were asked for again, since the machine was busy")
    print(f"from {points[0][0]} to {points[-1][0]} events: {growth >> 20:+d} MiB, {MOST_GROWTH >> 20} allowed")
    return growth <= MOST_GROWTH


def main() -> int:
    """Runs the benchmark, or one of its processes."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role == "policy":
        asyncio.run(serve_policy(int(sys.argv[2])))
        return 0
    if role in ("plain", "logging"):
        if role == "plain":
            process.EventLog = Nothing  # type: ignore[assignment, misc]
        return gateway_main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each gateway (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round (default: %(default)s)")
    parser.add_argument("--events", type=int, help="measure memory over so many instead")
    parser.add_argument("--folder", type=Path, help="on the disk of the journals (default: that of temporary files)")
    arguments = parser.parse_args()
    from tests.kit.ports import free_port

    port = free_port()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, started(["policy", str(port)]):
        if arguments.events:
            return 0 if grow(Path(folder), port, arguments.events) else 1
        return 0 if compare(Path(folder), port, arguments.rounds, arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())

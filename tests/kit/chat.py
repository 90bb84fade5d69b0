"""A client of a gateway, for tests."""

import asyncio
import json

DIGEST = "sha256:" + "5" * 64
SYSTEM = "Sell flowers."
MAX_PROMPT = 96
MAX_NEW = 12


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


async def ask(client, messages, status=200, **body):
    """A whole answer, as parsed JSON."""
    async with client.post("/v1/chat/completions", json={"messages": messages, **body}) as response:
        value = await response.json()
        assert response.status == status, value
        return value


async def ask_streamed(client, messages, **body):
    """The events of a streamed answer."""
    body = {"messages": messages, "stream": True, **body}
    async with client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        lines = (await response.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def run(coroutine):
    return asyncio.run(coroutine)

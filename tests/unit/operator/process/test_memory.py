"""What an entry point loads; in a process of its own, because imports stay."""

import json
import subprocess
import sys

SCRIPT = """
import asyncio, json, sys
sys.modules["kubernetes"] = None  # kopf loads it where it is installed; the image of the operator has none
from ippo_operator.process import operator
from ippo_operator.cluster.access.kubeconfig import Login
from ippo_operator.cluster.connection import connect
async def make():
    connection = await connect(Login("https://127.0.0.1:1"))
    await connection.session.close()
asyncio.run(make())
memory = int(open('/proc/self/statm').read().split()[1]) * 4 / 1024 if sys.platform == 'linux' else 0
modules = {name.split(".")[0] for name, module in sys.modules.items() if module}
print(json.dumps({"modules": sorted(modules), "memory": memory}))
"""


def test_the_operator_loads_one_client_and_stays_small() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    process = json.loads(done.stdout)
    assert {"aiohttp", "kopf"} <= set(process["modules"])
    assert not {"kubernetes", "requests", "urllib3", "pykube"} & set(process["modules"])
    assert process["memory"] <= 75

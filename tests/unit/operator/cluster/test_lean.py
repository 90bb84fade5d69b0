"""What an entry point loads of the Kubernetes client; in a process of its own, because imports stay."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
from ippo_operator.cluster.lean import without_sync_client
without_sync_client()
from ippo_operator.handlers import process
from ippo_operator.cluster.connection import Configuration, KubernetesTransport
import asyncio
async def make():
    async with KubernetesTransport(Configuration()):
        pass
asyncio.run(make())
memory = int(open('/proc/self/statm').read().split()[1]) * 4 / 1024 if sys.platform == 'linux' else 0
print(json.dumps({"modules": [name for name, module in sys.modules.items() if module], "memory": memory}))
"""


def test_the_operator_loads_no_synchronous_client_and_stays_small() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    told = json.loads(done.stdout)
    assert "kubernetes.aio.client.api_client" in told["modules"]
    assert "kopf" in told["modules"]
    assert not [name for name in told["modules"] if name.startswith("kubernetes.client")]
    assert told["memory"] <= 115

"""What all tests share: no network, one thread each, nothing of the caller's environment."""

import gc
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.kit.shares import Shares

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# How long an example takes says how busy the machine is, so there is no deadline. Examples are the same in every run:
# whoever looks for new ones asks for them, `pytest --hypothesis-profile=explore`.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("tests")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Instead of `--dist loadfile`."""
    return Shares(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """What was imported and collected stays: a million objects that the garbage collector need not look at."""
    gc.collect()
    gc.freeze()


_FOREIGN = ("AWS_", "JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST", "IPPO_TERMINATION_LOG")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither credentials nor a pod's variables reach a test; boto3 looks for no role on the network."""
    for name in os.environ:
        if name.startswith(_FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session", autouse=True)
def _one_loader() -> Iterator[None]:
    """All clients of S3 share botocore's parsed service descriptions: a sixth of a second each otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        yield

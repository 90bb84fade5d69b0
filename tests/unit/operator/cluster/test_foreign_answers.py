"""What pods answer through the API server's proxy: bounded, and believed in nothing but the body."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from ippo_operator.cluster.access.kubeconfig import Login, User
from ippo_operator.cluster.client import Client
from ippo_operator.cluster.connection import KubernetesTransport
from ippo_operator.cluster.errors import ApiError, FencedError
from ippo_operator.cluster.live_report import NoReportError, read_report
from ippo_trainer.contract.live import REPORT_MOST, LiveReport

from tests.kit.hostile_pod import DEEDS, HostilePod

ARM = {"digest": "sha256:" + "a" * 64}
BODY = LiveReport(time=1.0, active=ARM).model_dump_json(by_alias=True).encode()  # type: ignore[arg-type]


@pytest.fixture
def pod() -> Iterator[HostilePod]:
    with HostilePod() as pod:
        yield pod


def fenced() -> None:
    raise FencedError


class Asker:
    """An operator that has no lease, and asks a pod as if it were behind the API server."""

    def __init__(self, pod: HostilePod) -> None:
        self.pod = pod
        self.reloads = 0
        self.client: Client

    async def _ask(self, times: int) -> list[bytes]:
        login = Login(self.pod.url, user=User(token="secret"))

        def reload() -> Login:
            self.reloads += 1
            return login

        async with KubernetesTransport(login, reload) as transport:
            self.client = Client(transport, fenced)
            asked = [self.client.ask("small-gateway:internal", "team", "/v1/live", REPORT_MOST, 1.0)]
            return [await one for one in asked * times]

    def ask(self) -> bytes:
        [answer] = asyncio.run(asyncio.wait_for(self._ask(1), 30))
        return answer


def test_an_answer_is_its_body(pod: HostilePod) -> None:
    pod.answers(BODY)
    assert Asker(pod).ask() == BODY
    assert pod.paths == ["/api/v1/namespaces/team/services/small-gateway%3Ainternal/proxy/v1/live"]


@pytest.mark.parametrize("deed", DEEDS)
def test_whatever_a_pod_does_is_one_line_in_bounded_time(pod: HostilePod, deed: str) -> None:
    pod.deed, asker, began = DEEDS[deed], Asker(pod), time.monotonic()
    with pytest.raises(ApiError) as error:
        asker.ask()
    assert time.monotonic() - began < 5
    assert str(error.value).isprintable()
    assert len(str(error.value).encode()) < 512
    assert error.value.retry_after is None
    assert len(pod.paths) <= 2  # aiohttp itself asks again where a connection was lost
    assert len(set(pod.paths)) == 1
    assert asker.reloads == 0


def test_what_is_packed_stays_packed(pod: HostilePod) -> None:
    pod.answers_zipped(b" " * (1 << 24))
    assert len(Asker(pod).ask()) < REPORT_MOST


def test_a_pod_does_not_set_the_operators_clock(pod: HostilePod) -> None:
    pod.answers(BODY, Date="Fri, 01 Jan 2100 00:00:00 GMT")
    asker = Asker(pod)
    asker.ask()
    assert abs((asker.client.clock() - datetime.now(UTC)).total_seconds()) < 60


def test_words_of_a_refusal_are_told_as_one_printable_line(pod: HostilePod) -> None:
    pod.deed = DEEDS["words with a cursor"]
    with pytest.raises(ApiError, match=r"^HTTP 500: .\[2J Approved$"):
        Asker(pod).ask()
    pod.deed = DEEDS["no report"]
    with pytest.raises(ApiError, match=r"^HTTP 503: there is no report: S3$"):
        Asker(pod).ask()


def test_a_report_that_is_none_names_the_field(pod: HostilePod) -> None:
    pod.answers(BODY.replace(b'"usable":0', b'"usable":-1'))

    async def scene() -> None:
        async with KubernetesTransport(Login(pod.url), lambda: Login(pod.url)) as transport:
            await read_report(Client(transport), "team", "small-gateway")

    with pytest.raises(NoReportError, match=r"no report \(usable\)"):
        asyncio.run(asyncio.wait_for(scene(), 30))

"""What a gateway says, asked for through the API server's proxy. Whoever may make pods of its labels may answer it."""

from collections.abc import Hashable

from ippo_trainer.contract.lines import one_line
from ippo_trainer.contract.live import REPORT_MOST, REPORT_PATH, LiveReport
from pydantic import ValidationError

from ippo_operator.cluster import clock
from ippo_operator.cluster.client import Client
from ippo_operator.cluster.errors import ApiError
from ippo_operator.manifests.gateway import INTERNAL

_FIELD = 64
"""Bytes of its name; whoever answers may have made it up."""
_PATIENCE = 5.0
"""Seconds: a pass over a run has to wait for it."""


class Silences:
    """For how long gateways have not answered.

    Args:
        steady: seconds that go on.
    """

    def __init__(self, steady: clock.Steady = clock.steady) -> None:
        self._steady = steady
        self._since: dict[Hashable, float] = {}

    def seconds(self, run: Hashable) -> float:
        """Since the first of the questions in a row that got no answer; one has just got none."""
        return self._steady() - self._since.setdefault(run, self._steady())

    def forget(self, run: Hashable) -> None:
        """The gateway answers, or is asked no more."""
        self._since.pop(run, None)


class NoReportError(Exception):
    """The gateway does not answer, or not with a report. The message is one line."""


async def read_report(client: Client, namespace: str, gateway: str) -> LiveReport:
    """The report of the gateway whose Service has that name.

    Raises:
        NoReportError: there is none.
    """
    try:
        body = await client.ask(f"{gateway}:{INTERNAL}", namespace, REPORT_PATH, REPORT_MOST, _PATIENCE)
    except ApiError as error:
        raise NoReportError(f"gateway {gateway} does not answer: {error}") from None
    try:
        return LiveReport.model_validate_json(body)
    except ValidationError as error:
        field = one_line(".".join(str(part) for part in error.errors()[0]["loc"]), _FIELD) or "JSON"
        raise NoReportError(
            f"what gateway {gateway} answers is no report ({field}); its image, spec.pods.common.image, has to be of "
            "the operator's release"
        ) from None

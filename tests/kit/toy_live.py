"""Stand-ins for what a local run keeps at work beside its stages: a fetch, a policy server and a gateway.

A server is ready unless the file `unready` is in its policy's folder, and ends with the code in a file `end`. Both read
the folder `rules` beside the folder of policies, which the tests write.
"""

import http.server
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from ippo_operator.local.processes import Launcher, Programs
from ippo_trainer.contract.live import ArmReport, CanaryVerdict, LiveReport, Routes
from ippo_trainer.contract.spec import Outcome

PROGRAMS = Programs(f"{__name__}:fetch", f"{__name__}:serve", f"{__name__}:gateway")


def live_launcher() -> Launcher:
    """Starts the stand-ins; the fork server imports them once for all."""
    return Launcher("tests.kit.toy_stages:run_stage", ["tests.kit.toy_stages", __name__], PROGRAMS)


def fetch(argv: Sequence[str]) -> int:
    given = _given(argv)
    folder = Path(given["to"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digest").write_text(given["digest"])
    return 0


def serve(argv: Sequence[str]) -> int:
    """Answers to /readyz as the rules say."""
    given = _given(argv)
    model = Path(given["policy"])
    rules = model.parents[1] / "rules" / model.name
    _count(model.parents[1] / "starts", model.name)
    if (rules / "end").exists():
        print("ERROR it cannot start")
        return int((rules / "end").read_text())
    if os.environ["IPPO_POLICY_DIGEST"] != (model / "digest").read_text():
        return 3

    def answer(path: str) -> tuple[int, bytes]:
        return (503 if (rules / "unready").exists() else 200), b"ok"

    return _listen(int(given["port"]), answer)


def gateway(argv: Sequence[str]) -> int:
    """Reports that there is enough of everything, and that every candidate is better, unless there is a file
    `undecided`."""
    given = _given(argv)
    routes = Path(given["routes"])
    _count(routes.parent / "starts", "gateway")

    def answer(path: str) -> tuple[int, bytes]:
        told = Routes.model_validate_json(routes.read_bytes())
        outcome = None if (routes.parent / "undecided").exists() else "Promote"
        return 200, _report(told, outcome).model_dump_json(by_alias=True).encode()

    code = _listen(int(given["internal-port"]), answer)
    (routes.parent / "flushed").touch()
    return code


def _report(told: Routes, outcome: Outcome | None) -> LiveReport:
    active, arm, verdict = ArmReport(digest=told.active.digest), None, None
    if told.canary is not None:
        digest = told.canary.route.digest
        arm = ArmReport(digest=digest, conversations=100, outcomes=50)
        verdict = CanaryVerdict(digest=digest, since=told.canary.since, outcome=outcome, reason="It is better.")
    counts = {"usable": 10_000, "usable_outcomes": 1000}
    return LiveReport(time=0.0, active=active, control=active, candidate=arm, verdict=verdict, **counts)


def _listen(port: int, answer) -> int:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(0.02)
    return 0


def _count(folder: Path, name: str) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def _given(argv: Sequence[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in argv)

"""`ippo chat`: finds the gateway and holds a conversation."""

import os
import re
import uuid
from argparse import Namespace
from pathlib import Path

from ippo_operator.api.resource import RUN_NAME
from ippo_operator.cli.chat import KEY
from ippo_operator.cli.chat.gateway import GatewaySession
from ippo_operator.cli.chat.session import Session
from ippo_operator.cli.chat.terminal import Terminal
from ippo_operator.cli.errors import OK, CommandError
from ippo_operator.cli.folders import open_folder
from ippo_operator.local.live.gateway import read_address


def command(arguments: Namespace) -> int:
    """Talks until the conversation is over."""
    url = _url(arguments)
    name = arguments.conversation or f"chat-{uuid.uuid4().hex[:16]}"
    with GatewaySession(url, os.environ.get(KEY, ""), name, arguments.customer) as gateway:
        session = Session(gateway, Terminal())
        if arguments.role == "customer":
            session.as_customer()
        else:
            session.as_business()
    return OK


def _url(arguments: Namespace) -> str:
    if (arguments.url is None) == (arguments.run is None):
        raise CommandError("give either a run's folder or --url of a gateway")
    if arguments.url is not None:
        url: str = arguments.url
        if not url.startswith(("http://", "https://")):
            raise CommandError(f"--url is {url}; write http://HOST:PORT")
        return url
    if not Path(arguments.run).is_dir():
        if not re.fullmatch(RUN_NAME, arguments.run):
            raise CommandError(f"there is no folder {arguments.run}; ippo run -f RUN.yaml --out DIR makes one")
        raise CommandError(
            f"there is no folder {arguments.run}; for a run in a cluster: "
            f"kubectl port-forward service/{arguments.run}-gateway 8080, and --url http://localhost:8080"
        )
    run = open_folder(arguments.run)
    if run.manifest.spec.collect.logged is None:
        raise CommandError(
            f"{run.view.name} has no gateway: its spec has no collect.logged; ask its policy with: "
            f"ippo serve {arguments.run}"
        )
    address = read_address(run.folder.path) if run.runner_active else None
    if address is None:
        why = "has no policy yet, or its gateway starts" if run.runner_active else "is not at work"
        remedy = "wait for it" if run.runner_active else f"start it with: ippo run -f RUN.yaml --out {arguments.run}"
        raise CommandError(f"{run.view.name} {why}, so there is no gateway to talk to; {remedy}")
    return address

"""How each block of commands is tested: in which scene a shell carries it out, or why none does."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .doc_pages import Block, pages, shell

QUICKSTART = "docs/tutorials/cluster.md"


@dataclass(frozen=True)
class Scene:
    """Blocks of a page that one shell carries out, in order.

    Args:
        page: the page.
        sections: the headings above the blocks; empty for the whole page.
        before: commands that make what the page takes for granted, by the heading before whose first block they run;
            the empty heading stands for the scene's beginning.
        fails: commands that are there to fail, by how they begin, with the exit code in front.
        settings: texts of the page that are the reader's own, and what stands for each of them here.
        world: the cluster's name; scenes of one world find what those before them left.
    """

    page: str
    sections: tuple[str, ...] = ()
    before: dict[str, str] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    world: str = "operations"

    @property
    def blocks(self) -> list[Block]:
        """The blocks of commands."""
        blocks = [block for block in shell(self.page) if not self.sections or block.section in self.sections]
        return [block for block in blocks if excuse(block) is None]

    def __str__(self) -> str:
        return " ".join([self.page, *self.sections])


# On one machine

_TEA = "--environment examples/my_environment.py:TeaShop --option asked=0.8 --option unasked=0.05 --patience 1"
_SMALLER = """
s/8080/PORT/; s/max: 3/max: 1/; s/d64-l2/d32-l1/; s/epochs: 1/epochs: 4/
s/minConversations: 8000/minConversations: 1200/; s/minOutcomes: 200/minOutcomes: 50/
s/maxConversations: 4000/maxConversations: 200/
s/minConversations: 200/minConversations: 50/; s/algorithm: MPO/updates: 10/
"""
TUTORIALS = (
    Scene("docs/tutorials/simulator.md", fails=("64 ippo run",)),
    Scene("docs/tutorials/log.md", fails=("65 ippo run",)),
    Scene(
        "docs/tutorials/live.md",
        # The tea shop's customers, who buy more often, and a smaller model: the same commands in a tenth of the time.
        settings={
            "shop.py": f"shop.py {_TEA}",
            "run.yaml >": "run.yaml | sed -f smaller.sed >",
            "localhost:8080": "localhost:$PORT",
        },
        before={"": f"echo '{_SMALLER}' > smaller.sed; sed -i s/PORT/$PORT/ smaller.sed"},
    ),
    Scene("docs/tutorials/model.md", fails=("64 ippo validate", "65 ippo run")),
)
"""One after the other in one folder: each leaves runs for the next."""

_ASK = "curl --silent --fail --retry 300 --retry-delay 1 --retry-connrefused localhost:8000/v1/models"
_CONVERSATION = '{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}'
PAGES_OF_ONE_MACHINE = (
    Scene(
        "docs/stages.md",
        before={"Improve on several GPUs or pods": "cp runs/smoke/jobs/*-improve-a1-*/spec.json spec.json"},
    ),
    Scene("docs/artifacts.md"),
    Scene("docs/serving.md", ("By hand",), settings={"--port 8000": '--port "$PORT"'}),
    Scene("docs/environments.md"),
    Scene("docs/manifest.md"),
    Scene(
        "docs/cli.md",
        ("Completion",),
        before={"": "mkdir -p ~/.config/fish/completions"},
        settings={"source <(ippo completion zsh)": "ippo completion zsh > /dev/null"},
    ),
    Scene(
        "README.md",
        ("What to do next",),
        before={
            "": "cp -r runs/smoke runs/demo; cp -r runs/tea runs/mine; cp examples/my-environment.yaml my-run.yaml; "
            f"echo '{_CONVERSATION}' > log.jsonl"
        },
        settings={"ippo serve runs/demo ": f"ippo serve runs/demo & {_ASK}; kill $! && wait "},
    ),
    Scene("docs/reading-the-report.md"),
)
"""Likewise in that folder: the pages read what the tutorials left."""

# In a cluster

_WAIT = "for _ in $(seq 300); do {0} > /dev/null && break; sleep 0.2; done; {0}"
_OPERATORS_POD = """\
{apiVersion: "v1", kind: "Pod", metadata: (.metadata + {name: "ippo-operator-0"}), spec: (.spec + {nodeName: "node-1"})}
"""
_INSTALLED = f"""
helm install ippo-operator charts/ippo-operator --namespace ippo-system --create-namespace
kubectl -n ippo-system rollout status deployment/ippo-operator
kubectl -n ippo-system get deployment ippo-operator -o json | jq '.spec.template | {_OPERATORS_POD}' \\
  | kubectl -n ippo-system apply -f -
kubectl -n ippo-system patch pod ippo-operator-0 --subresource status --type merge \\
  -p '{{"status": {{"phase": "Running"}}}}'
kubectl create namespace sales
kubectl config set-context --current --namespace sales
"""
_LIFE = Scene(
    "docs/life-of-a-run.md",
    before={
        "": f"{_INSTALLED}\necho hold shop-i2-improve > $STAGES",
        "It runs": "ippo approve shop 1\n" + _WAIT.format("ippo status shop | grep 'improving the policy'"),
        "It stalled": "ippo suspend shop --wait; echo fail shop-i2-improve > $STAGES; ippo resume shop\n"
        + _WAIT.format("ippo status shop | grep 'shop: Failed'")
        + "; : > $STAGES",
        "You are asked": _WAIT.format("ippo status shop | grep 'asks you'") + "\necho hold shop-i3-improve > $STAGES",
        "You change your mind": _WAIT.format("ippo status shop | grep 'improve of iteration 3'")
        + "\nsed -i 's/max: 4/max: 6/; s/^spec:/&\\n  seed: 1/' shop.yaml",
        "It ends": ": > $STAGES",
    },
    fails=("1 ippo diff", "64 ippo diff"),
)
_NOTHING_WRONG = ("1 grep", "1 wc")
"""Of a search in a log in which all is well."""
_THE_OPERATORS = ("ApiErrors", "OperatorBug", "OperatorDown", "OperatorNotLeading", "QueueBacklog", "ReconcileErrors")
_NO_GATEWAY = ("1 kubectl -n sales logs deployment/shop-gateway", "1 kubectl get --raw")
"""What asks a gateway that the run there has not."""
_RUNBOOKS = tuple(
    Scene(
        page,
        fails=(*_NOTHING_WRONG, *_NO_GATEWAY, "64 ippo reject"),
        settings={
            "NAMESPACE": "ippo-system" if page[18:-3] in {*_THE_OPERATORS, "WatchStale", "WatchesMissing"} else "sales",
            "NAME": "shop",
        },
    )
    for page in pages()
    if page.startswith("docs/runbooks/")
)
CLUSTER: tuple[Scene, ...] = (
    Scene("README.md", ("On Kubernetes",), world="readme"),
    Scene("docs/installation.md", ("Helm",), world="installation"),
    Scene(
        "docs/installation.md",
        ("The first run", "Uninstall"),
        before={"": "kubectl create namespace team-a"},
        world="installation",
    ),
    Scene("charts/ippo-operator/README.md", world="installation"),
    Scene(
        "docs/installation.md",
        ("Plain YAML", "For some namespaces only"),
        before={"": "kubectl create namespace team-a"},
        world="plain",
    ),
    _LIFE,
    Scene(
        "docs/cli.md",
        ("`ippo` in a cluster", "Exit codes"),
        before={"": "sed '/promotion:/d; /serve:/d; s/name: shop/name: my-run/' shop.yaml > RUN.yaml"},
    ),
    Scene(
        "docs/tutorials/gitops.md",
        before={
            "": """
git init --quiet --bare shop.git
kubectl create namespace argocd
kubectl create namespace flux-system
kubectl -n argocd create configmap argocd-cm
echo hold shop-assistant-i1-improve > $STAGES
""",
            "2. Have a tool follow it": "touch followed; git -C shop push origin main",
            "4. Approve a candidate": ": > $STAGES",
        },
        settings={"https://git.example/shop.git\n": "$HOME/shop.git\n"},
    ),
    Scene("docs/serving.md", ("Serving",), before={"": "kubectl apply -f RUN.yaml"}),
    Scene("docs/security.md", before={"": "kubectl create namespace team-a"}),
    Scene("docs/metrics.md"),
    Scene("docs/upgrade.md"),
    Scene(
        "docs/runbooks/IppoApprovalPending.md",
        before={
            "": "rm -rf shop; kubectl apply -f shop.yaml\n" + _WAIT.format("ippo status shop | grep 'asks you'"),
        },
        fails=("64 ippo reject",),
        settings={"NAMESPACE": "sales", "NAME": "shop"},
    ),
    *(scene for scene in _RUNBOOKS if not scene.page.endswith("/IppoApprovalPending.md")),
)
"""In this order."""

# Elsewhere, or not at all

ELSEWHERE = {
    QUICKSTART: "tests/e2e/test_quickstart.py",
    "docs/gateway.md": "tests/unit/gateway/test_documentation.py",
    "docs/disaster-recovery.md": "tests/integration/apiserver/test_disaster_recovery.py",
}
"""Pages that a test of their own carries out from beginning to end."""

NOT_RUN: dict[str, dict[str, str]] = {
    "README.md": {"make demo ": "trains for minutes, and runs all tests; the same commands run on smaller runs"},
    "CONTRIBUTING.md": {"make install ": "is how this test came to run; it is checked that the targets are there"},
    "docs/images.md": {
        "make images ": "builds images on a base from a registry and pushes them; make e2e builds the same ones",
        "images/base/debian.sh": "needs root and Debian's mirror; make e2e runs it where it can",
    },
}
"""Blocks that no test can carry out, by page and by how the block begins, each with the reason."""


def excuse(block: Block) -> str | None:
    """Why no test carries the block out; None if one has to."""
    reasons = NOT_RUN.get(block.page, {})
    return next((reason for begin, reason in reasons.items() if block.code.startswith(begin)), None)


def scenes() -> Iterator[Scene]:
    """All of them."""
    yield from TUTORIALS
    yield from PAGES_OF_ONE_MACHINE
    yield from CLUSTER

"""The recipes of CONTRIBUTING.md, carried out in a copy of the repository: each leads to what it promises."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kit.doc_pages import ROOT

RUN = "examples/my-environment.yaml"
STAGES_OF_A_RUN = """
from tests.kit.planner_world import Cluster, make_run
world = Cluster(make_run(iterations={"max": 1}))
world.drive()
print(*(stage for _, stage, _ in world.stages()))
"""
PODS_OF_FIT_Q = """
from ippo_operator.manifests.overrides import for_stage
from ippo_operator.manifests.pods import _place
from tests.kit.planner_world import make_run
common = {"overhead": {"cpu": "1"}, "host": "all"}
run = make_run(pods={"common": common, "fitQ": {"overhead": {"memory": "2Gi"}, "host": "mine"}})
spec = {}
_place(spec, for_stage(run.spec.pods, "fit-q"))
print(spec["overhead"], spec["hostname"])
"""
READ_AND_WRITTEN = """
from ippo_operator.api.status import ActiveAttempt
text = '{"jobName": "a", "inputDigest": "sha256:%s", "createdAt": "2026-01-31T12:00:00Z", "overdue": "x"}' % ("0" * 64)
attempt = ActiveAttempt.model_validate_json(text)
print(attempt.late, attempt.model_dump(mode="json", by_alias=True, include={"late"}))
"""

END_OF_FILE = "=== end of file ===\n"
ALL_GENERATORS = f"""
import runpy
for name in ("crd", "reference", "reasons"):
    runpy.run_module(f"ippo_operator.api.{{name}}", run_name="__main__")
    if name != "reasons":
        print({END_OF_FILE!r}, end="")
"""


class Copy:
    """A copy of the repository, and the recipe that is followed in it.

    Args:
        root: where the copy is.
        heading: the recipe's.
    """

    def __init__(self, root: Path, heading: str) -> None:
        self._root = root
        for name in ("operator", "trainer", "examples", "tests"):
            # With what is compiled already, which counts as long as a file keeps its time and size.
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("released"))
        page = (ROOT / "CONTRIBUTING.md").read_text()
        self._recipe = page.split(f"\n### {heading}\n")[1].split("\n### ")[0].split("\n## ")[0]

    def edit(self, file: str, before: str, after: str, name: str = "") -> None:
        """Replaces a text of a file that the recipe names; part of its path may be called NAME there."""
        self._named(file.replace(f"/{name}/", "/NAME/") if name else file)
        path = self._root / file
        text = path.read_text()
        assert text.count(before) == 1, f"{file} has {before!r} {text.count(before)} times"
        path.write_text(text.replace(before, after))

    def write(self, file: str, text: str, name: str) -> None:
        """A new file, whose name the recipe gives as NAME."""
        self._named(file.replace(name, "NAME"))
        (self._root / file).write_text(text)

    def _named(self, file: str) -> None:
        assert f"`{file}`" in self._recipe, f"the recipe does not say that {file} is to be edited"

    def run(self, *arguments: str) -> str:
        """What Python prints, with the copy's packages."""
        path = os.pathsep.join(str(self._root / name) for name in ("operator", "trainer", ""))
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=self._root,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def generated(self) -> tuple[str, str, str]:
        """What `make crds docs` writes: the CRD, the reference of the manifest, that of the reasons."""
        assert re.search(r"`make (crds )?docs`", self._recipe)
        crd, reference, reasons = self.run("-c", ALL_GENERATORS).split(END_OF_FILE)
        return crd, reference, reasons

    def validate(self, before: str, after: str) -> str:
        """`ippo validate` of the example run with a change."""
        text = (self._root / RUN).read_text()
        assert before in text
        (self._root / "run.yaml").write_text(text.replace(before, after))
        return self.run("-m", "ippo_operator.cli.main", "validate", "-f", "run.yaml")


@pytest.fixture
def copy(tmp_path: Path, request: pytest.FixtureRequest) -> Copy:
    return Copy(tmp_path, request.param)


def of_recipe(heading: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("copy", [heading], indirect=True, ids=[heading])


@of_recipe("A field of the manifest")
def test_a_field(copy: Copy) -> None:
    copy.edit(
        "operator/ippo_operator/api/resource.py",
        "    suspend: bool = False\n",
        "    contact: Annotated[str, Field(max_length=64)] | None = None\n"
        '    """Whom to ask about the run."""\n'
        "    suspend: bool = False\n",
    )
    copy.edit(
        "operator/ippo_operator/api/changes.py", '    "spec.suspend",\n', '    "spec.suspend",\n    "spec.contact",\n'
    )
    crd, reference, _ = copy.generated()
    assert "contact:\n" in crd
    assert "| `contact` | text of at most 64 characters | none | Whom to ask about the run. |" in reference
    assert "`spec.contact`" in reference.split("Once a run has started, these may change:")[1].split("\n")[0]
    assert "is valid" in copy.validate("spec:\n", "spec:\n  contact: ada\n")


@of_recipe("A field of `spec.pods`")
def test_a_field_of_pods(copy: Copy) -> None:
    """A map and a text: a section adds to what `common` says."""
    copy.edit(
        "operator/ippo_operator/api/pods.py",
        "    runtime_class_name: ObjectName | None = None\n",
        '    overhead: Quantities | None = None\n    """Of the sandbox."""\n'
        '    host: ObjectName | None = None\n    """Its name."""\n'
        "    runtime_class_name: ObjectName | None = None\n",
    )
    copy.edit(
        "operator/ippo_operator/manifests/pods.py",
        "    if settings.node_selector:\n",
        '    spec["overhead"], spec["hostname"] = settings.overhead, settings.host\n    if settings.node_selector:\n',
    )
    crd, reference, _ = copy.generated()
    assert crd.count(" overhead:\n") == 7
    assert (
        len(json.dumps(yaml.safe_load(crd))) < 240_000
    )  # as it is kept in an annotation by kubectl's client-side apply
    assert "Of the sandbox." in reference
    assert copy.run("-c", PODS_OF_FIT_Q) == "{'cpu': '1', 'memory': '2Gi'} mine\n"


@of_recipe("A default")
def test_a_default(copy: Copy) -> None:
    copy.edit("trainer/ippo_trainer/contract/params.py", 'gae_lambda: Share = "0.95"', 'gae_lambda: Share = "0.94"')
    copy.edit("trainer/ippo_trainer/contract/params.py", '"own_candidates": 8', '"own_candidates": 9')
    copy.edit("trainer/ippo_trainer/contract/defaults.py", 'Default("0.0006"', 'Default("0.0007"')
    crd, reference, _ = copy.generated()
    assert "default: '0.94'" in crd
    assert '`"0.0007"`' in reference
    value = "from ippo_trainer.contract.params import Mpo; print(Mpo().value('own_candidates'))"
    assert copy.run("-c", value) == "9\n"


@of_recipe("A status field's new name")
def test_a_new_name_in_the_status(copy: Copy) -> None:
    copy.edit(
        "operator/ippo_operator/api/status.py",
        "    overdue: Message | None = None\n",
        '    late: Annotated[Message | None, formerly("late", "overdue")] = None\n',
    )
    crd, _, _ = copy.generated()
    assert "late:\n" in crd
    assert re.search(r"overdue:\n +description: 'Deprecated: late, as \S+ called it", crd)
    assert copy.run("-c", READ_AND_WRITTEN) == "x {'late': 'x'}\n"


@of_recipe("A flag of a verb")
def test_a_flag(copy: Copy) -> None:
    copy.edit(
        "operator/ippo_operator/cli/logs/__init__.py",
        '    parser.add_argument("--previous"',
        '    parser.add_argument("--colour", choices=["always", "never"], help="of names")\n'
        '    parser.add_argument("--previous"',
        "logs",
    )
    assert "of names" in copy.run("-m", "ippo_operator.cli.main", "logs", "--help")
    words = ["__complete", "logs", "sales", "--colour", ""]
    assert copy.run("-m", "ippo_operator.cli.main", *words).split("\n")[:2] == ["always", "never"]


@of_recipe("A reason")
def test_a_reason(copy: Copy) -> None:
    copy.edit(
        "operator/ippo_operator/api/reasons.py",
        "    SUSPENDED = (\n",
        '    TIRED = ("Tired", "The run is tired.", "Let it sleep.", ("Reconciling",), "Itself")\n    SUSPENDED = (\n',
    )
    crd, _, reasons = copy.generated()
    assert "| `Tired` | The run is tired. | Let it sleep. |" in reasons
    assert "The run is tired." in copy.run("-m", "ippo_operator.cli.main", "explain", "Tired")
    assert "Tired" in crd


@of_recipe("An algorithm of `improve`")
def test_an_algorithm(copy: Copy) -> None:
    copy.write(
        "trainer/ippo_trainer/improve/algorithms/reinforce.py",
        "class REINFORCE:\n    def __init__(self, task):\n        self.task = task\n",
        "reinforce",
    )
    copy.edit("trainer/ippo_trainer/contract/algorithms.py", '"RLOO"]', '"RLOO", "REINFORCE"]')
    copy.edit(
        "trainer/ippo_trainer/contract/algorithms.py",
        '    "PPO": Holdings(',
        '    "REINFORCE": Holdings(),\n    "PPO": Holdings(',
    )
    crd, reference, _ = copy.generated()
    assert "REINFORCE" in crd
    assert "REINFORCE" in reference
    assert "is valid" in copy.validate("  improve:\n", "  improve:\n    algorithm: REINFORCE\n")
    make = "from ippo_trainer.improve import algorithm; print(algorithm.find('REINFORCE')(1).task)"
    assert copy.run("-c", make) == "1\n"


@of_recipe("An environment")
def test_an_environment(copy: Copy) -> None:
    example = (ROOT / "examples" / "my_environment.py").read_text()
    copy.write("trainer/ippo_trainer/environments/tea_shop.py", example, "tea_shop")
    copy.edit(
        "trainer/ippo_trainer/contract/params.py",
        "BUILT_IN_ENVIRONMENTS = {\n",
        'BUILT_IN_ENVIRONMENTS = {\n    "tea-shop": "ippo_trainer.environments.tea_shop:TeaShop",\n',
    )
    assert "with tea-shop" in copy.validate("examples/my_environment.py:TeaShop", "tea-shop")
    load = "from ippo_trainer.environments import load; from ippo_trainer.contract.params import EnvironmentSpec\n"
    assert (
        copy.run("-c", f"{load}print(load(EnvironmentSpec(name='tea-shop')).reset([1])[0].customer_message)")
        == "hello what do you have\n"
    )


@of_recipe("A stage")
def test_a_stage(copy: Copy) -> None:
    copy.edit(
        "trainer/ippo_trainer/contract/stages.py",
        "    Stage(\n        EVALUATE,\n",
        '    Stage("audit", "reads what the candidate says", "audit", "audit", inputs=("policy",)),\n'
        "    Stage(\n        EVALUATE,\n",
    )
    copy.edit("trainer/ippo_trainer/contract/stages.py", '"improve", "evaluate"]', '"improve", "evaluate", "audit"]')
    copy.edit(
        "trainer/ippo_trainer/contract/params.py",
        "class Gate(Model):\n",
        'class Audit(Model):\n    """Reads what the candidate says."""\n\n\nclass Gate(Model):\n',
    )
    copy.edit(
        "trainer/ippo_trainer/contract/spec.py",
        "    evaluate: params.Evaluate | None = None\n",
        "    audit: params.Audit | None = None\n    evaluate: params.Evaluate | None = None\n",
    )
    copy.edit(
        "operator/ippo_operator/api/resource.py",
        "    evaluate: params.Evaluate = ",
        '    audit: params.Audit = params.Audit()\n    """Read it."""\n    evaluate: params.Evaluate = ',
    )
    copy.edit(
        "operator/ippo_operator/api/pods.py",
        "    evaluate: StagePods = ",
        '    audit: StagePods = StagePods()\n    """Its readers."""\n    evaluate: StagePods = ',
    )
    copy.write("trainer/ippo_trainer/stages/audit.py", "def run(ctx):\n    return ctx\n", "audit")
    crd, _, _ = copy.generated()
    assert "- audit\n" in crd
    assert copy.run("-c", STAGES_OF_A_RUN) == "warm-start collect fit-q improve audit evaluate\n"
    assert "audit" in copy.run("-m", "ippo_trainer.stages.cli", "--help")

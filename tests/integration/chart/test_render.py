"""The chart rendered: every variant, every flag of the operator, what the schema refuses, and its documents."""

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ippo_operator.api.load import parse_run
from ippo_operator.process.options import parse

from .helm import CHART, ROOT, VARIANTS, container, helm, leaves, need, objects, of_kind, render
from .table import README, with_table

CRD_FILE = ROOT / "crds" / "ippo.dev_iterativepporuns.yaml"
DEVELOPERS_FLAGS = {"--context", "--help"}
"""A pod has no kubeconfig to choose from."""


def variant(name: str) -> str:
    return f"--values={Path(__file__).parent / 'values' / name}.yaml"


def flags_of_the_operator(capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    usage = capsys.readouterr().out.split("\n\n")[0]
    return set(re.findall(r"--[a-z-]+", usage))


def test_names_of_digits_stay_text() -> None:
    sets = ("metrics.serviceMonitor.enabled=true", "podDisruptionBudget.enabled=true", "sampleRun.enabled=true")
    text = render(
        "--set-string=watchNamespaces={789},sampleRun.bucket=789,sampleRun.credentialsSecretName=789",
        *(f"--set={one}" for one in sets),
        namespace="456",
        release="123",
    )
    found = [value for manifest in objects(text) for _, value in leaves(manifest)]
    assert {"123", "456", "789"} <= {value for value in found if isinstance(value, str)}
    assert not {123, 456, 789} & {value for value in found if isinstance(value, int)}


def test_helm_lint_is_clean() -> None:
    for values in VARIANTS:
        done = helm("lint", "--strict", str(CHART), f"--values={values}")
        assert done.returncode == 0, done.stdout
        assert "[WARNING]" not in done.stdout


def test_the_chart_has_the_products_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_crd_is_the_one_of_the_models() -> None:
    text = CRD_FILE.read_text()
    assert text[text.index("\nspec:") + 1 :] == (CHART / "files" / "crd-spec.yaml").read_text(), "make manifests"
    [rendered] = of_kind(objects(render()), "CustomResourceDefinition")
    [origin] = objects(text)
    assert rendered["spec"] == origin["spec"]
    assert rendered["metadata"]["name"] == origin["metadata"]["name"]


def test_braces_in_a_description_stay_as_they_are(chart: Path) -> None:
    spec = chart / "files" / "crd-spec.yaml"
    spec.write_text(spec.read_text().replace("Completed iterations", "Completed {{ .Values.none }} iterations", 1))
    [crd] = of_kind(objects(render(chart=chart)), "CustomResourceDefinition")
    assert "Completed {{ .Values.none }} iterations" in json.dumps(crd)


def test_every_flag_of_the_operator_has_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    set_by: set[str] = set()
    for values in VARIANTS:
        set_by |= {flag.split("=")[0] for flag in container(objects(render(f"--values={values}")))["args"]}
    assert flags_of_the_operator(capsys) - DEVELOPERS_FLAGS <= set_by


def test_values_arrive_as_the_operators_options() -> None:
    args = container(objects(render(variant("own-images"), variant("namespaces-with-crd"), "--set=stageUser=none")))[
        "args"
    ]
    options = parse(args, {})
    assert options.platform.image == "registry.example/ippo-trainer:1.2.3-cuda"
    assert options.platform.serve_image == "registry.example/ippo-serve:1.2.3"
    assert (options.platform.image_pull_policy, options.platform.user) == ("Never", None)
    assert (options.namespaces, options.lease_namespace, options.lease_name) == (("team-a",), "team-a", "a-lease")
    assert (options.workers, options.resync, options.port) == (4, 60, 9090)
    assert (options.log_format, options.log_level) == ("text", "warning")


def test_large_user_ids_of_a_file_of_values_arrive_whole(tmp_path: Path) -> None:
    """Numbers of a YAML file are floats to a template; OpenShift's users have ten digits."""
    values = tmp_path / "values.yaml"
    values.write_text("user: 1000660000\nstageUser: 1000670000\n")
    rendered = objects(render(f"--values={values}"))
    assert parse(container(rendered)["args"], {}).platform.user == 1000670000
    [deployment] = of_kind(rendered, "Deployment")
    assert deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 1000660000


def test_the_default_options_are_the_operators_own() -> None:
    options = parse(container(objects(render()))["args"], {})
    bare = parse(["--image=x"], {})
    assert re.fullmatch(r"ippo-trainer:\d+\.\d+\.\d+-cpu", options.platform.image), "as images/build.sh calls it"
    assert options.platform.user == bare.platform.user
    assert (options.namespaces, options.workers, options.resync) == ((), bare.workers, bare.resync)
    assert (options.port, options.lease_name, options.lease_namespace) == (bare.port, bare.lease_name, "ops")


def test_numbers_that_yaml_reads_as_floats_arrive_whole() -> None:
    args = container(objects(render("--set=resyncSeconds=86400000,workers=100")))["args"]
    assert "--resync-seconds=86400000" in args


def test_every_value_is_set_by_a_variant() -> None:
    defaults = dict(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    touched = set()
    for values in VARIANTS:
        given = yaml.safe_load(values.read_text())
        touched |= {path for path, default in defaults.items() if _at(given, path, default) != default}
    assert set(defaults) - touched == set()


def _at(values: Any, path: str, otherwise: Any) -> Any:
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return otherwise
        values = values[part]
    return values


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set=replica=2"], "replica"),
        (['--set-json=replicas="two"'], "replicas"),
        (["--set=log.level=loud"], "log/level"),
        (["--set=crds.instal=false"], "instal"),
        (['--set-json=watchNamespaces="team-a"'], "watchNamespaces"),
        (['--set-json=watchNamespaces=["Team_A"]'], "watchNamespaces/0"),
        (['--set-json=watchNamespaces=["a","a"]'], "watchNamespaces"),
        (["--set=stageUser=root"], "stageUser"),
        (["--set=user=0"], "user"),
        (["--set=port=80"], "port"),
        (['--set-json=approval={"restrict":"yes"}'], "approval/restrict"),
        (["--set-json=networkPolicy.apiServerPorts=[]"], "networkPolicy/apiServerPorts"),
        (["--set=image=two words"], "image"),
        (["--set=strategy.type=Recreate,strategy.rollingUpdate.maxSurge=1"], "rollingUpdate"),
        (["--set=podDisruptionBudget.maxUnavailable=0"], "maxUnavailable"),
        (['--set-json=labels={"a":1}'], "labels/a"),
        (['--set-json=podLabels={"app.kubernetes.io/name":"x"}'], "podLabels/app.kubernetes.io~1name"),
        (["--set=serviceAccount.create=false"], "serviceAccount.name is missing"),
        (["--set=sampleRun.enabled=true"], "sampleRun.bucket is missing"),
        (["--set=metrics.serviceMonitor.enabled=true,metrics.service.enabled=false"], "needs metrics.service.enabled"),
    ],
)
def test_a_wrong_value_is_refused_by_name(flags: list[str], words: str) -> None:
    done = helm("template", "x", str(CHART), *flags)
    assert done.returncode != 0
    assert words in done.stderr.replace(".", "/").replace("'", "") or words in done.stderr


RELEASED = sorted((Path(__file__).parent / "released").glob("*.yaml"))


@pytest.mark.parametrize("values", RELEASED, ids=lambda path: path.stem)
def test_all_values_of_an_earlier_release_are_taken(values: Path) -> None:
    """What an upgrade with --reuse-values sends. A value that has gone stays in the schema, marked as deprecated."""
    assert of_kind(objects(render(f"--values={values}")), "Deployment")


def test_every_release_before_this_one_left_its_values() -> None:
    [major, minor, _] = map(int, yaml.safe_load((CHART / "Chart.yaml").read_text())["version"].split("."))
    assert {f"{major}.{earlier}.0" for earlier in range(1, minor)} <= {values.stem for values in RELEASED}


def test_the_network_policy_lets_the_operators_own_port_in_and_the_api_server_out() -> None:
    manifests = objects(render(variant("available"), "--set=port=9090"))
    [policy] = of_kind(manifests, "NetworkPolicy")
    [deployment] = of_kind(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    [incoming] = policy["spec"]["ingress"]
    ports = {port["name"] for port in container(manifests)["ports"]}
    assert {port["port"] for port in incoming["ports"]} == ports
    assert [peer for peer in incoming["from"] if "namespaceSelector" in peer]
    outgoing = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert outgoing == {53, 443, 6443, 16443, 3128}
    assert of_kind(objects(render()), "NetworkPolicy") == []


def test_every_object_has_the_labels_and_no_two_have_the_same_name() -> None:
    for values in VARIANTS:
        manifests = objects(render(f"--values={values}"))
        names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in manifests]
        assert len(names) == len(set(names))
        for manifest in manifests:
            assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "ippo-operator"


def test_a_label_that_is_given_twice_is_there_once() -> None:
    mine = ("--set=podLabels.team=mine", "--set=metrics.dashboard.labels.team=mine")
    text = render(variant("observed"), variant("named"), *mine)
    [deployment] = of_kind(objects(text), "Deployment")
    assert deployment["spec"]["template"]["metadata"]["labels"]["team"] == "mine"
    assert deployment["metadata"]["labels"]["team"] == "platform"
    assert text.count("team: mine") == 2


def test_namespaces_mean_roles_only() -> None:
    manifests = objects(render(variant("namespaces")))
    assert {m["kind"] for m in manifests} & {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"} == set()
    places = {m["metadata"]["namespace"] for m in of_kind(manifests, "Role")}
    assert places == {"team-a", "team-b", "ops"}
    whole = [rule for role in of_kind(manifests, "Role") for rule in role["rules"]]
    assert not any("*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] for rule in whole)


def test_nobody_may_read_secrets_or_write_a_runs_spec() -> None:
    for role in of_kind(objects(render()), "ClusterRole"):
        if role["metadata"]["name"].startswith("ippo-operator"):
            for rule in role["rules"]:
                assert "secrets" not in rule["resources"]
                if "iterativepporuns" in rule["resources"]:
                    assert not {"update", "patch", "create", "delete"} & set(rule["verbs"])


def test_a_selector_never_depends_on_values() -> None:
    selectors = set()
    for values in VARIANTS:
        [deployment] = of_kind(objects(render(f"--values={values}")), "Deployment")
        selectors.add(json.dumps(deployment["spec"]["selector"], sort_keys=True))
    assert len(selectors) == 1


def test_notes_teach_a_command_that_is_a_valid_run() -> None:
    done = helm("install", "x", str(CHART), "--dry-run=client", "--namespace=ops")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    run = yaml.safe_load(notes.split("<<RUN\n")[1].split("\nRUN\n")[0].replace("MY-BUCKET", "my-bucket"))
    assert parse_run(run).metadata.name == "first"
    assert "kubectl -n ops rollout status deployment/x" in notes


def test_the_readme_lists_every_value() -> None:
    assert README.read_text() == with_table(README.read_text()), "make manifests"


def test_the_plain_manifests_are_those_of_the_chart() -> None:
    plain = ROOT / "deploy" / "ippo-operator.yaml"
    [namespace, *rest] = objects(plain.read_text())
    assert namespace["kind"] == "Namespace"
    place = namespace["metadata"]["name"]
    assert rest == objects(render(namespace=place)), "make manifests"


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A copy to change."""
    need("helm")
    return Path(shutil.copytree(CHART, tmp_path / "chart"))

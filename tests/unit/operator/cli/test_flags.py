"""kubectl's flags, before the verb and after it, and the version."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from ippo_operator.api.resource import RunSpec
from ippo_operator.cli.cluster_flags import FLAGS
from ippo_operator.cli.command_line import make_parser
from ippo_operator.cluster.access.kubeconfig import Flags
from ippo_trainer.contract.params import Policy

from tests.kit.fake_server import Server, kubeconfig
from tests.kit.ippo_command import Ippo

from .cluster_runs import begin

PARSER = make_parser("ippo")
VERBS = ["status", "logs", "approve", "reject", "suspend", "resume", "retry", "report", "diff", "explain"]


def arguments(verb: str) -> list[str]:
    """What the verb cannot do without."""
    return ["-f", "RUN.yaml"] if verb == "diff" else ["small"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.names[0])
def test_every_flag_stands_before_the_verb_and_after_it(verb: str, flag: object) -> None:
    assert isinstance(flag, type(FLAGS[0]))
    for name in flag.names:
        words = [name] if flag.metavar is None else [name, "value"]
        before = PARSER.parse_args([*words, verb, *arguments(verb)])
        after = PARSER.parse_args([verb, *arguments(verb), *words])
        assert Flags.of(before) == Flags.of(after) != Flags()
    joined = PARSER.parse_args([f"{flag.names[-1]}=value" if flag.metavar else name, verb, *arguments(verb)])
    assert Flags.of(joined) == Flags.of(before)


def test_the_flag_after_the_verb_counts_more() -> None:
    parsed = PARSER.parse_args(["-n", "one", "--context", "c", "status", "-n", "two"])
    assert Flags.of(parsed) == Flags(namespace="two", context="c")


def test_flags_before_the_verb_reach_the_cluster(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    begin(server)
    begin(server, "sales", "elsewhere")
    assert "sales" in ippo("-n", "elsewhere", "status").out
    assert "sales" in ippo("--namespace=elsewhere", "status", "sales").out
    assert {"elsewhere", "team"} <= set(ippo("-A", "status").out.split())
    assert {"elsewhere", "team"} <= set(ippo("status", "-A").out.split())
    other = tmp_path / "other"
    other.write_text(json.dumps(kubeconfig(server.url, {"token": "wrong"}, "elsewhere")))
    said = ippo("--kubeconfig", str(other), "--token", server.token, "--as", "eve", "status")
    assert "sales" in said.out


def test_another_user_is_named_to_the_server(server: Server, ippo: Ippo) -> None:
    begin(server)
    assert ippo("--as", "eve", "--as-group", "a", "--as-group", "b", "status", "small").code == 0
    assert server.impersonation == {("Impersonate-User", "eve"), ("Impersonate-Group", "a"), ("Impersonate-Group", "b")}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-n", "team", "validate", "-f", "x"], "ippo: -n means nothing to validate; leave it out"),
        (["--as", "eve", "run", "-f", "x", "--out", "y"], "ippo: --as means nothing to run; leave it out"),
        (["-A", "logs", "small"], "ippo: -A means nothing to logs; leave it out"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(ippo: Ippo, words: list[str], told: str) -> None:
    said = ippo(*words)
    assert (said.code, said.err.splitlines()[-1]) == (64, told)


def test_with_a_flag_for_clusters_a_name_is_no_folder(server: Server, ippo: Ippo, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    begin(server)
    assert ippo("status", "small").code == 64
    assert ippo("-n", "team", "status", "small").code == 0
    assert ippo("status", "small", "--as", "eve").code == 0


def test_the_version(ippo: Ippo) -> None:
    expected = f"ippo {version('iterative-ppo')}\n"
    assert ippo("--version") == ippo("version") == (0, expected, "")


def test_ippo_exact_scores_by_default_as_a_run_does() -> None:
    """The parser does not import the models, so it writes their defaults once more."""
    arguments = make_parser("ippo").parse_args(["exact", "--env", "sr-funnel"])
    assert arguments.discount == float(RunSpec.model_fields["discount"].default)
    assert arguments.max_new_tokens == Policy.model_fields["max_new_tokens"].default

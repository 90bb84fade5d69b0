"""docs/cli.md and docs/life-of-a-run.md say what the command does."""

import re
from pathlib import Path

import yaml
from ippo_operator.api.load import parse_run
from ippo_operator.api.reasons import Reason

from tests.kit.ippo_command import Ippo

DOCS = Path(__file__).parents[4] / "docs"
PAGES = [DOCS / name for name in ("cli.md", "life-of-a-run.md", "reasons.md")]


def test_the_manifest_of_the_example_is_valid() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```$", (DOCS / "life-of-a-run.md").read_text(), re.MULTILINE | re.DOTALL)
    run = parse_run(yaml.safe_load(text))
    assert run.spec.promotion.mode == "Manual"


def test_verbs_and_options_in_the_pages_exist(ippo: Ippo) -> None:
    commands = {
        words
        for page in PAGES
        for words in re.findall(
            r"(?<!get )(?<!describe )(?<!delete )\bippo ([a-z]+(?: [^`\n#&|]*)?)", "\n".join(code(page.read_text()))
        )
    }
    known = set(re.findall(r"^    ([a-z]+) ", ippo("--help").out, re.MULTILINE))
    assert len(known) > 10
    assert len(commands) > 25
    for words in commands:
        verb, *rest = words.split()
        assert verb in known, words
        help_text = ippo(verb, "--help").out
        options = [word.rstrip(",.;") for word in rest if word.startswith("-")]
        assert [option for option in options if not re.search(rf"{re.escape(option)}\b", help_text)] == [], words


def code(text: str) -> list[str]:
    """What the page sets as code."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def test_remedies_name_no_run_by_accident() -> None:
    """`NAME` is replaced by the run's name wherever it stands."""
    for reason in Reason:
        assert set(re.findall(r"\w*NAME\w*", reason.remedy)) <= {"NAME"}

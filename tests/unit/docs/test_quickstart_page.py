"""The shell blocks of the quickstart; tests/e2e carries them out."""

import dataclasses
import subprocess

import pytest

from tests.e2e import page


def test_the_first_block_sets_what_is_the_readers_own() -> None:
    settings = page.blocks()[0]
    names = [line.partition("=")[0] for line in settings.code.splitlines()]
    changed = page.with_settings(settings, dict.fromkeys(names, "it's mine")).code
    shown = subprocess.run(
        ["bash", "-c", f'{changed}\necho "${names[0]}" "${names[-1]}"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "it's mine it's mine\n"


def test_a_setting_that_no_test_knows_is_an_error() -> None:
    with pytest.raises(KeyError, match="NEW"):
        page.with_settings(dataclasses.replace(page.blocks()[0], code="NEW=1\n"), {})


def test_all_variables_of_the_page_are_set_first() -> None:
    first, *others = page.blocks()
    stubs = "".join(f"{name}() {{ :; }}\n" for name in ("kubectl", "helm", "ippo", "curl", "kill"))
    script = "\n".join(["set -eu", first.code, stubs, *(block.code for block in others)])
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, timeout=60, cwd=page.ROOT)


def test_cleaning_up_comes_last() -> None:
    assert page.blocks()[-1].code.startswith("kubectl delete namespace")

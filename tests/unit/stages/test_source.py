"""The content of an environment's files is an input of a stage: edits are noticed, and nothing is mixed."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from ippo_trainer.contract import params
from ippo_trainer.contract.layout import ENVIRONMENT
from ippo_trainer.contract.spec import StageResult, StageSpec
from ippo_trainer.data.turns import read_turns
from ippo_trainer.environments import load
from ippo_trainer.environments.source import source_digest
from ippo_trainer.stages.runtime import run_stage
from ippo_trainer.store.artifact import fetch, read_manifest
from ippo_trainer.training import cadence

SHOP = """
class Shop:
    max_turns = 2

    def __init__(self, menu="menu.json"):
        self.turn = 0

    def reset(self, seeds):
        self.turn, self.count = 0, len(seeds)
        return ["{hello}"] * len(seeds)

    def step(self, suggestions):
        self.turn += 1
        {trouble}
        more = "and more" if self.turn < 2 else None
        return [dict(reaction="accepted" if s else "rejected", sent_message=s or "yes", customer_message=more,
                     outcome=False) for s in suggestions]
"""


class Edited:
    """A shop whose file is written anew; modules are imported afresh, as each stage does in a process of its own."""

    def __init__(self, world: Any) -> None:
        self.world, self.names = world, itertools.count()
        self.policy = world.put_policy(1)

    def spec(self, hello: str, trouble: str = "pass", **settings: Any) -> Any:
        folder = self.world.folder / f"copy-{next(self.names)}"
        folder.mkdir()
        (folder / "shop.py").write_text(SHOP.format(hello=hello, trouble=trouble))
        section = params.Collect(**({"conversations": 12, "parallelism": 1, "batch_size": 4} | settings))
        spec = self.world.spec("collect", {"policy": self.policy}, collect=section)
        return spec.model_copy(update={"environment": params.EnvironmentSpec(name=f"{folder / 'shop.py'}:Shop")})

    def run(self, spec: Any, index: int | None = None) -> tuple[int, dict[str, Any]]:
        """With the name that the spec had from the start: its digest has the path and not the content."""
        path, log = self.world.folder / "spec.json", self.world.folder / "termination.json"
        path.write_text(spec.model_dump_json(by_alias=True))
        log.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StageSpec, "input_digest", lambda _: "sha256:" + "5" * 64)
            patch.setattr(cadence, "SAVE_SECONDS", 0.0)
            patch.setattr(cadence, "SAVING_SHARE", float("inf"))
            code = run_stage(path, index, log, self.world.folder)
        return code, json.loads(log.read_bytes())

    def hellos(self, message: dict[str, Any], name: str) -> set[str]:
        result = StageResult.model_validate_json(json.dumps(message))
        fetch(self.world.store, result.artifacts["data"], self.world.folder / name, "data")
        found = read_turns(sorted((self.world.folder / name).glob("*.parquet")))
        assert len(found) == 12
        return {conversation.turns[0].customer_message for conversation in found}


@pytest.fixture
def edited(small_world: Any) -> Edited:
    return Edited(small_world)


def test_a_stage_whose_environment_was_mended_begins_anew(edited: Edited) -> None:
    broken = edited.spec("hi", "assert self.turn < 2 or self.count < 4 or not hasattr(Shop, 'met'); Shop.met = True")
    code, message = edited.run(broken)
    assert code == 65, message
    assert "Shop.step raised AssertionError" in message["error"]["message"]
    assert list(edited.world.store.list("iterations/0001/collect/shards/00000/checkpoint"))
    code, message = edited.run(edited.spec("hello"))
    assert code == 0, message
    assert edited.hellos(message, "data") == {"hello"}
    assert any(
        "source of environment" in text and "changed since the run began" in text for text in message["warnings"]
    )


def test_the_same_source_elsewhere_goes_on_from_the_checkpoint(
    edited: Edited, caplog: pytest.LogCaptureFixture
) -> None:
    busy = "if self.count == 4 and getattr(Shop, 'calls', 0) > 2: raise TimeoutError(); Shop.calls = 1"
    spec = edited.spec("hi", busy.replace("; Shop", "\n        Shop").replace("= 1", "= getattr(Shop, 'calls', 0) + 1"))
    code, message = edited.run(spec)
    assert code == 75, message
    caplog.clear()
    again = edited.spec("hi")
    Path(again.environment.name.rpartition(":")[0]).write_bytes(
        Path(spec.environment.name.rpartition(":")[0]).read_bytes()
    )
    edited.run(again)
    assert "resumed after 4 conversations" in caplog.text
    assert "another source" not in caplog.text


def test_shards_of_two_sources_are_never_joined(edited: Edited) -> None:
    assert edited.run(edited.spec("hi", parallelism=2), 0)[0] == 0
    code, message = edited.run(edited.spec("hello", parallelism=2), 1)
    assert code == 0, message
    assert not message["shard"]["complete"], "the other shard is of another source"
    code, message = edited.run(edited.spec("hello", parallelism=2), 0)
    assert code == 0, message
    assert message["shard"]["complete"]
    assert edited.hellos(message, "data") == {"hello"}
    # What is complete is done, whatever becomes of the file.
    assert edited.run(edited.spec("bye", parallelism=2), 0)[1] == message


def test_artifacts_name_the_source_and_the_first_one_is_kept(edited: Edited) -> None:
    _, message = edited.run(edited.spec("hi"))
    assert not message.get("warnings")
    result = StageResult.model_validate_json(json.dumps(message))
    spec = edited.spec("hi")
    load(spec.environment)
    inputs = read_manifest(edited.world.store, result.artifacts["data"]).inputs
    assert inputs["environment"] == source_digest(spec.environment)
    assert json.loads(edited.world.store.read(ENVIRONMENT)) == {"source": inputs["environment"]}


def test_a_checkpoint_and_notes_of_the_release_before_go_on(edited: Edited, caplog: pytest.LogCaptureFixture) -> None:
    spec = edited.spec("hi", parallelism=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ippo_trainer.stages.runtime.source_digest", lambda _: None)
        assert edited.run(spec, 0)[0] == 0
    note = json.loads(edited.world.store.read("iterations/0001/collect/shards/00000/turns.json"))
    assert "source" not in note
    code, message = edited.run(edited.spec("hi", parallelism=2), 1)
    assert code == 0, message
    assert message["shard"]["complete"]


def test_what_the_digest_is_of(tmp_path: Path) -> None:
    def digest(folder: str, source: str, helper: str, menu: str) -> str | None:
        place = tmp_path / folder
        place.mkdir()
        module = f"helper_of_{folder}"
        (place / f"{module}.py").write_text(helper)
        (place / "menu.json").write_text(menu)
        imports = "import importlib.util, pathlib, sys\n"
        imports += "path = next(pathlib.Path(__file__).parent.glob('helper*.py'))\n"
        imports += "sys.path.insert(0, str(path.parent))\n__import__(path.stem)\nsys.path.pop(0)\n"
        (place / "shop.py").write_text(imports + SHOP.format(hello=source, trouble="pass"))
        options: dict[str, str | int | bool] = {"menu": str(place / "menu.json")}
        environment = params.EnvironmentSpec(name=f"{place / 'shop.py'}:Shop", options=options)
        load(environment)
        found = source_digest(environment)
        (place / f"{module}.py").rename(place / "helper.py")
        return found

    digests = [digest("a", "x", "y = 1", "{}"), digest("b", "z", "y = 1", "{}"), digest("c", "x", "y = 1", "[]")]
    assert None not in digests
    assert len(set(digests)) == 3


def test_built_in_environments_have_none_but_that_of_their_tables(tmp_path: Path) -> None:
    assert source_digest(params.EnvironmentSpec(name="sr-funnel", options={"horizon": 4})) is None
    (tmp_path / "tables.json").write_text("{}")
    spec = params.EnvironmentSpec(name="sr-funnel", options={"tables": str(tmp_path / "tables.json")})
    first = source_digest(spec)
    (tmp_path / "tables.json").write_text("{ }")
    assert None not in (first, source_digest(spec))
    assert first != source_digest(spec)
    assert source_digest(params.EnvironmentSpec(name="sr-funnel", options={"tables": "x" * 5000 + "\0"})) is None

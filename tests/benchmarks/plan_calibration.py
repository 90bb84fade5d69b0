"""What `ippo plan` says against what is measured, on a CPU: the peak of memory and the CPU time of a stage.

Every stage is a process of its own with one thread, on the log of the tea shop, with random tiny models, and with a
chat model if there is one. What was measured is kept in `OUT`, so that a run that was interrupted goes on.

    python tests/benchmarks/plan_calibration.py --out OUT                 tiny models
    python tests/benchmarks/plan_calibration.py --out OUT --base DIR      and a chat model in safetensors; take 135M
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ippo_trainer.contract import params
from ippo_trainer.contract.spec import ArtifactRef, StageSpec, StoreLocation
from ippo_trainer.contract.stages import BY_NAME, COLLECT, EVALUATE, FIT_Q, IMPROVE, WARM_START, StageName

sys.path.insert(0, str(Path(__file__).parent))
from adapter_memory import BUYERS, TEA, write_log

GOOD = 0.25
"""How far a plan may be off, as a share of what is measured."""


@dataclass(frozen=True)
class Case:
    """One iteration with a base."""

    name: str
    base: str
    adapter: params.Adapter | None = None
    algorithm: Any = "PPO"
    conversations: int = 60
    """Of the log."""
    longest: int = 56
    """Tokens of a prompt, at most: about what the shop's conversations have."""
    batch: int = 32
    """Conversations of an update."""
    samples: int = 4
    updates: int = 2
    stages: tuple[StageName, ...] = (WARM_START, COLLECT, FIT_Q, IMPROVE, EVALUATE)

    def place(self, out: Path) -> Path:
        """Its folder."""
        return out / self.name.replace(", ", "-")

    def spec(self, stage: StageName, place: Path, inputs: dict[str, ArtifactRef]) -> StageSpec:
        """Of a stage with these inputs."""
        log = f"file://{place / 'log.jsonl'}"
        held = {"name": TEA, "options": BUYERS}
        sections: dict[str, Any] = {
            WARM_START: {"warm_start": params.WarmStart(conversations=log, epochs=1, batch_size=16)},
            COLLECT: {
                "environment": params.EnvironmentSpec(**held),
                "collect": params.Collect(conversations=self.conversations, parallelism=1),
            },
            FIT_Q: {"fit_q": params.FitQ(epochs=1, holdout="0.3", batch_size=32)},
            IMPROVE: {
                "improve": params.Improve(
                    algorithm=self.algorithm,
                    mpo=params.Mpo(conversations=2 * self.batch, epochs=1, batch_size=self.batch),
                    updates=self.updates,
                    batch_size=self.batch,
                    samples_per_state=self.samples,
                    critic_warmup_updates=1,
                )
            },
            EVALUATE: {
                "environment": params.EnvironmentSpec(**held),
                "evaluate": params.Evaluate(conversations=self.conversations // 4),
            },
        }
        if stage not in (WARM_START, COLLECT, EVALUATE):
            sections[stage]["history"] = params.LogHistory(conversations=log)
        return StageSpec(
            stage=stage,
            run="plan",
            iteration=0 if stage == WARM_START else 1,
            seed=7,
            threads=1,
            device="cpu",
            discount="0.95",
            store=StoreLocation(directory=str(place / "store")),
            inputs={name: ref for name, ref in inputs.items() if name in BY_NAME[stage].inputs},
            policy=params.Policy(
                base=self.base, max_prompt_tokens=self.longest, max_new_tokens=12, adapter=self.adapter
            ),
            **sections[stage],
        )


def cases(base: Path | None) -> Iterator[Case]:
    """Small ones first."""
    adapter = params.Adapter(rank=8)
    yield Case("d64-l2", "tiny:d64-l2")
    yield Case("d512-l8", "tiny:d512-l8", batch=8)
    yield Case("d512-l8, adapters", "tiny:d512-l8", adapter, batch=8)
    yield Case("d512-l8, MPO", "tiny:d512-l8", algorithm="MPO", batch=8)
    if base is not None:
        few: dict[str, Any] = {"conversations": 30, "longest": 112, "batch": 4, "samples": 2, "updates": 1}
        few["stages"] = WARM_START, FIT_Q, IMPROVE
        yield Case(f"{base.name}, adapters", f"file://{base.resolve()}", adapter, **few)
        yield Case(base.name, f"file://{base.resolve()}", **few)


def main() -> None:
    """Measures what is not there yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, metavar="DIR")
    options = parser.parse_args()
    # torch is imported last: the peak of a process counts what its parent held when it forked.
    rows = [(case, measured(case, options.out.resolve())) for case in cases(options.base)]
    show(rows, options.out.resolve())


def measured(case: Case, out: Path) -> dict[str, dict[str, Any]]:
    """By stage: `spec`, `peak` in bytes, `seconds` of a CPU."""
    place = case.place(out)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "log.jsonl").exists():
        write_log(place / "log.jsonl", case.conversations)
    inputs: dict[str, ArtifactRef] = {}
    rows = {}
    # The log's conversations are what an iteration learns from, whatever the policy says.
    for stage in case.stages:
        spec = case.spec(stage, place, inputs)
        done = place / f"{stage}.json"
        if not done.exists():
            done.write_text(json.dumps(carried_out(spec, place)))
        rows[stage] = json.loads(done.read_text()) | {"spec": spec}
        made = {name: ArtifactRef(**ref) for name, ref in rows[stage]["artifacts"].items()}
        inputs |= {"candidate": made["policy"]} if stage == IMPROVE else made
        if stage == WARM_START:
            inputs["explorer"] = inputs["policy"]
        if stage in (WARM_START, COLLECT):
            inputs["data"] = logged(place)
    return rows


def logged(place: Path) -> ArtifactRef:
    """The log as data of the policy's own."""
    from ippo_trainer.data.logs import read_log
    from ippo_trainer.data.turns import write_turns
    from ippo_trainer.store import open_store
    from ippo_trainer.store.artifact import publish

    directory = place / "data"
    directory.mkdir(exist_ok=True)
    write_turns(directory / "turns.parquet", read_log(place / "log.jsonl", print))
    return publish(open_store(StoreLocation(directory=str(place / "store"))), "given/data", directory, "data")


def carried_out(spec: StageSpec, place: Path) -> dict[str, Any]:
    """What a stage took in a process of its own, and what it made."""
    path = place / "spec.json"
    path.write_text(spec.model_dump_json(by_alias=True))
    command = [str(Path(sys.executable).parent / "ippo-stage"), spec.stage, "--spec", str(path)]
    with (place / f"{spec.stage}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        body = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{place / spec.stage}.log says what went wrong")
    return {
        "artifacts": json.loads(body)["artifacts"],
        "peak": usage.ru_maxrss << 10,
        "seconds": usage.ru_utime + usage.ru_stime,
    }


def show(rows: list[tuple[Case, dict[str, dict[str, Any]]]], out: Path) -> None:
    """A row for each stage: plan, measured, and their ratio; "!" where it is far off."""
    from ippo_trainer.models.sizing import size_of, stage_memory
    from ippo_trainer.models.timing import DEVICES, stage_seconds

    print("case                  stage         MiB planned  measured  ratio    s planned  measured (of a CPU)")
    for case, stages in rows:
        policy = case.place(out) / "store" / stages[WARM_START]["artifacts"]["policy"]["key"]
        size, said = size_of("file://", policy, case.adapter), talk(case, policy, out)  # with the log's vocabulary
        for stage, row in stages.items():
            plan = stage_memory(row["spec"], size, None, said.turns).together
            seconds = stage_seconds(row["spec"], size, DEVICES["cpu"], None, said)
            ratio = plan / row["peak"]
            print(
                f"{case.name:22}{stage:12}{plan / 2**20:13.0f}{row['peak'] / 2**20:10.0f}{ratio:7.2f}"
                f"{'' if abs(ratio - 1) <= GOOD else ' !':2}{seconds:11.0f}{row['seconds']:10.0f}"
            )


def talk(case: Case, policy: Path, out: Path) -> Any:
    """How long the log's conversations are for a policy."""
    from ippo_trainer.data.logs import read_log
    from ippo_trainer.models.load import load_tokenizer
    from ippo_trainer.models.timing import Conversations
    from ippo_trainer.qfit.examples import make_examples
    from ippo_trainer.text.render import Renderer

    conversations = read_log(case.place(out) / "log.jsonl", print)
    examples, _ = make_examples(conversations, Renderer.load(policy, load_tokenizer(policy)))
    turns, tokens = sum(len(each.groups) for each in examples), sum(each.tokens for each in examples)
    return Conversations(turns / len(examples), round(tokens / len(examples)), len(examples))


if __name__ == "__main__":
    main()

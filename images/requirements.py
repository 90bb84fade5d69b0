"""Prints the requirements of this project with the given extras, one per line, without the project itself.

    python images/requirements.py trainer vllm < pyproject.toml

So the layer of an image that holds them depends on these lines only, not on everything in pyproject.toml.
"""

import sys
import tomllib

project = tomllib.load(sys.stdin.buffer)["project"]
wanted = list(project["dependencies"])
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
print("\n".join(sorted(wanted)))

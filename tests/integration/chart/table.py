"""The table of values in the chart's README, from values.yaml and values.schema.json.

python -m tests.integration.chart.table     writes it into README.md
"""

import json
from typing import Any

import yaml

from .helm import CHART, leaves

_BEGIN, _END = "<!-- values: made by `make manifests` -->", "<!-- end of values -->"
README = CHART / "README.md"


def described(schema: dict[str, Any], path: str) -> str:
    """What the schema says of a value. Raises KeyError if it does not know it."""
    for part in path.split("."):
        schema = schema["properties"][part]
    return str(schema["description"])


def table() -> str:
    """The table."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    rows = [
        f"| `{path}` | `{json.dumps(default)}` | {described(schema, path)} |"
        for path, default in leaves(values)
        if path != "global"
    ]
    return "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows])


def with_table(readme: str) -> str:
    """The README with the table as it has to be."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{table()}\n\n{_END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))

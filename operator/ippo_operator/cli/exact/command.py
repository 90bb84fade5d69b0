"""`ippo exact`: reference policies of an environment that can be solved, and a trained policy beside them."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from ippo_trainer.contract import params

from ippo_operator.cli.errors import CommandError
from ippo_operator.cli.exact.policy import score
from ippo_operator.cli.trainer import trainer_errors

_HORIZON_OPTION = {"double-t-maze": "max_turns"}


def command(arguments: Namespace) -> int:
    """Prints the ladder, and the policy's score if one is given."""
    with trainer_errors():
        result = _solve(arguments)
    print(json.dumps(result, indent=2) if arguments.json else "\n".join(_lines(result)))
    return 0


def _solve(arguments: Namespace) -> dict[str, Any]:
    from ippo_trainer.environments import ExactScorer, load

    environment = load(_environment(arguments))
    if not isinstance(environment, ExactScorer):
        raise CommandError(f"{arguments.env} cannot be solved exactly: it has no ladder, score and exact_q methods")
    ladder = environment.ladder(arguments.discount)
    result: dict[str, Any] = {
        "environment": arguments.env,
        "horizon": environment.max_turns,
        "discount": arguments.discount,
        "optimum": max(row.value for row in ladder),
        "policies": [{"name": row.name, "value": row.value, "success": row.success} for row in ladder],
    }
    if arguments.policy:
        scores = score(
            environment,
            Path(arguments.policy),
            arguments.conversations,
            arguments.discount,
            arguments.seed,
            arguments.max_new_tokens,
        )
        result["policies"].append({"name": "policy", "path": arguments.policy, **scores})
    return result


def _environment(arguments: Namespace) -> params.EnvironmentSpec:
    options: dict[str, str | int | bool] = {}
    if arguments.horizon is not None:
        options[_HORIZON_OPTION.get(arguments.env, "horizon")] = arguments.horizon
    if arguments.tables:
        options["tables"] = arguments.tables
    return params.EnvironmentSpec(name=arguments.env, options=options)


def _lines(result: dict[str, Any]) -> list[str]:
    head = f"{result['environment']}, {result['horizon']} turns, discount {result['discount']:g}"
    width = max(len(row["name"]) for row in result["policies"])
    lines = [head, "", f"{'policy'.ljust(width)}   value  success  of optimum"]
    for row in result["policies"]:
        share = row["value"] / result["optimum"] if result["optimum"] > 0 else 1.0
        error = f"  standard error {row['standardError']:.4f}" if "standardError" in row else ""
        lines.append(f"{row['name'].ljust(width)}  {row['value']:6.4f}  {row['success']:7.2%}  {share:10.1%}{error}")
    return lines

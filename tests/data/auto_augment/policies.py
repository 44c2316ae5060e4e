"""Writes policies.json: AutoAugment's two policies as torchvision has them.

    pip download --no-deps torchvision==0.29.2 && python policies.py torchvision-0.29.2-*.whl

The tables are read from the wheel's source, so neither torchvision nor PyTorch has to be installed.
"""

import ast
import json
import sys
import zipfile
from pathlib import Path

SOURCE = "torchvision/transforms/autoaugment.py"


def tables(source):
    """Every list that `_get_policies` returns, by the name of the policy that it is returned for."""
    function = next(node for node in ast.walk(ast.parse(source)) if getattr(node, "name", "") == "_get_policies")
    branches = [node for node in ast.walk(function) if isinstance(node, ast.If) and isinstance(node.body[0], ast.Return)]
    return {branch.test.comparators[0].attr.lower(): ast.literal_eval(branch.body[0].value) for branch in branches}


def main():
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        found = tables(archive.read(SOURCE).decode())
    rows = lambda pairs: ",\n".join("    " + json.dumps(pair) for pair in pairs)
    policies = ",\n".join(f'  "{name}": [\n{rows(found[name])}\n  ]' for name in ("imagenet", "cifar10"))
    version = wheel.name.split("-")[1]
    Path(__file__).with_name("policies.json").write_text(f'{{\n  "torchvision": "{version}",\n{policies}\n}}\n')


if __name__ == "__main__":
    main()

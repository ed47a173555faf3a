"""Write a policy whose adapters are merged into its weights, in the Hub's layout."""

import argparse
from pathlib import Path

from pipeline.models.policy_directory import load_policy, save_policy
from pipeline.plugins import load_model
from pipeline.stages.command_line import errors_on_one_line


def merge(policy: Path, out: Path) -> None:
    """W + (α/r) B A in the place of W, in the type of W."""
    plugin = load_model("llada")
    module, tokenizer, _ = load_policy(policy, plugin)
    save_policy(out, module, tokenizer, plugin, policy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path, help="policy directory of adapters")
    parser.add_argument("out", type=Path, help="policy directory to write")
    arguments = parser.parse_args()
    with errors_on_one_line():
        merge(arguments.policy, arguments.out)

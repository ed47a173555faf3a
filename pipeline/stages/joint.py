"""Rule `joint`: the whole law of an enumerated task's answers, beside the base's and the optimum's."""

from argparse import Namespace

import torch

from pipeline.algorithms.base import round_of
from pipeline.ctmc.exact import path_law
from pipeline.evaluation.statistics import optimum, posteriors_of
from pipeline.models.policy_directory import load_policy
from pipeline.plugins import load
from pipeline.stages import main
from pipeline.storage import parquet as records
from pipeline.storage.provenance import provenance
from pipeline.text.tokenizer import encode


def run(args: Namespace) -> None:
    settings = args.settings
    policy, tokenizer, _ = load_policy(args.policy, settings)
    around = round_of(settings, tokenizer, {}, torch.device("cpu"))
    prompt = records.read([args.items], records.ITEMS)["prompt"][0].as_py()
    table = posteriors_of(policy, encode(tokenizer, [prompt])[0], load("algorithm", settings.algorithm.name), around)
    pairs = torch.cartesian_prod(*[torch.arange(len(around.values))] * 2)
    columns = {
        "x1": pairs[:, 0].numpy(),
        "x2": pairs[:, 1].numpy(),
        "base": around.problem.base.ravel(),
        "target": optimum(around.problem, 1 / settings.algorithm.alpha).exp().flatten().numpy(),
        "model": path_law(table).exp().flatten().numpy(),
    }
    records.write(args.out, columns, records.JOINT, provenance(settings))


if __name__ == "__main__":
    main(
        run,
        __doc__,
        {
            "items": "test.parquet of rule prepare, for the prompt",
            "policy": "policy directory of the last round",
            "out": "Parquet to write: x1, x2 and their probability under base, target and model",
        },
    )

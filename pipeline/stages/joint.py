"""Rule `joint`: the whole law of an enumerated task's answers, beside the base's and the optimum's."""

from argparse import Namespace

import torch

from pipeline.ctmc.exact import path_law
from pipeline.evaluation.exact_kl import optimum, posteriors_of
from pipeline.models.policy_directory import load_policy
from pipeline.objectives.context import context_of
from pipeline.plugins import load_algorithm, load_model, resolve_task
from pipeline.settings.stages import LawSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.provenance import provenance
from pipeline.text.tokenizer import encode

ARGUMENTS = {
    "items": "test.parquet of rule prepare, for the prompt",
    "policy": "policy directory of the last round",
    "out": "Parquet to write: x1, x2 and their probability under base, target and model",
}


def run(args: Namespace, settings: LawSettings) -> None:
    policy, tokenizer, _ = load_policy(args.policy, load_model(settings.model.name))
    context = context_of(settings.algorithm, resolve_task(settings.task), tokenizer)
    prompt = parquet.read([args.items], parquet.ITEMS)["prompt"][0].as_py()
    table = posteriors_of(policy, encode(tokenizer, [prompt])[0], load_algorithm(settings.algorithm.name), context)
    pairs = torch.cartesian_prod(*[torch.arange(len(context.values))] * 2)
    columns = {
        "x1": pairs[:, 0].numpy(),
        "x2": pairs[:, 1].numpy(),
        "base": context.problem.base.ravel(),
        "target": optimum(context.problem, 1 / settings.algorithm.alpha).exp().flatten().numpy(),
        "model": path_law(table).exp().flatten().numpy(),
    }
    parquet.write(args.out, columns, parquet.JOINT, provenance(settings))


if __name__ == "__main__":
    main(run, LawSettings, __doc__, ARGUMENTS)

"""Rule `estimators`: bias and variance of the adjoint's estimators against K, under the base and the last policy."""

from argparse import Namespace
from dataclasses import asdict

import torch

from pipeline.ctmc.estimators import errors
from pipeline.models.policy_directory import load_policy
from pipeline.objectives.context import context_of
from pipeline.plugins import load_model, resolve_task
from pipeline.runtime.random_streams import Stream, torch_generator
from pipeline.samplers.enumeration import posterior_table
from pipeline.settings.stages import LawSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json
from pipeline.text.tokenizer import encode

COMPLETIONS = (4, 16, 64, 256, 1024)
DRAWN = 2**19  # completions drawn for each K

ARGUMENTS = {
    "items": "test.parquet of rule prepare, for the prompt",
    "base": "policy directory of the base model",
    "policy": "policy directory of the last round",
    "out": "JSON to write: a row for each policy, K and estimator",
}


def run(args: Namespace, settings: LawSettings) -> None:
    task, plugin = resolve_task(settings.task), load_model(settings.model.name)
    prompt = parquet.read([args.items], parquet.ITEMS)["prompt"][0].as_py()
    rows = []
    for name, path in (("base", args.base), ("last", args.policy)):
        policy, tokenizer, mask_id = load_policy(path, plugin)
        context = context_of(settings.algorithm, task, tokenizer)
        log_base, reward = torch.from_numpy(context.problem.base).log(), torch.from_numpy(context.problem.reward)
        law = posterior_table(policy, encode(tokenizer, [prompt])[0], context.values, mask_id).log_softmax(dim=-1)
        for count in COMPLETIONS:
            generator = torch_generator(settings.seed, Stream.ESTIMATORS, count)
            found = errors(log_base, law, reward, 1 / settings.algorithm.alpha, count, DRAWN // count, generator)
            rows += [{"policy": name, "completions": count, "estimator": key, **asdict(found[key])} for key in found]
    write_json(args.out, {"task": settings.task.name, "rows": rows})


if __name__ == "__main__":
    main(run, LawSettings, __doc__, ARGUMENTS)

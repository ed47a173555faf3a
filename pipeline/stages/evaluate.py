"""Rule `evaluate`: a round's policy on held-out prompts, by greedy decoding and by ancestral sampling.

A method that decodes in its own way takes the place of ancestral sampling. On an enumerated task the law of the
answers is exact, and KL(p* ‖ p^u) with it.
"""

from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path

from pipeline.evaluation.decoding import Decoder
from pipeline.evaluation.exact_kl import exact_kl, posteriors_of
from pipeline.evaluation.summary import by_group, summarize
from pipeline.models.base import check_cache
from pipeline.models.policy_directory import load_policy, weight_files
from pipeline.objectives.context import DecodeContext, value_ids
from pipeline.plugins import load_algorithm, load_model, resolve_task
from pipeline.runtime.distributed import device
from pipeline.settings.stages import EvaluateSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json
from pipeline.storage.provenance import result_origin
from pipeline.tasks.base import Item, Task, TaskSettings
from pipeline.tasks.scoring import Scorer
from pipeline.text.prompts import load_prompt_format
from pipeline.text.tokenizer import encode

SAMPLES = 6

ARGUMENTS = {
    "items*": "splits of rule prepare to evaluate on; the first gives the headline numbers",
    "policy": "policy directory",
    "round#": "number of the round, 0 for the base",
    "out": "JSON to write",
}


def run(args: Namespace, settings: EvaluateSettings) -> None:
    evaluate, task, algorithm = settings.evaluate, resolve_task(settings.task), load_algorithm(settings.algorithm.name)
    plugin = load_model(settings.model.name)
    check_cache(plugin, evaluate, "evaluate")
    policy, tokenizer, mask_id = load_policy(args.policy, plugin, device())
    values = value_ids(task, tokenizer).to(device())
    context = DecodeContext(settings.algorithm, task, mask_id, values, settings.seed, evaluate)
    prompt_format = load_prompt_format(args.policy, policy, tokenizer, task, evaluate.prefill)
    score = Scorer(settings.task, evaluate.reward_timeout)
    decoder = Decoder(policy, prompt_format, algorithm, context, score)
    origin = result_origin(settings, args.policy, weight_files(args.policy))
    splits: dict[str, dict[str, object]] = {}
    rows = []
    for path in args.items:
        items = _items(path, may_be_empty=path != args.items[0])
        lengths = evaluate.lengths or (task.answer_length,)
        for sampler, length in product(evaluate.samplers, lengths) if items else ():
            answers = decoder.answers(sampler, items, length, f"round {args.round} {path.stem} {sampler} {length}")
            metrics = score(items, answers)
            summary = summarize(metrics)
            rows.append({"split": path.stem, "sampler": sampler, "length": length, **origin, "metrics": summary})
            if length == task.answer_length:
                groups = by_group(metrics, [item.group for item in items])
                samples = list(map(partial(_sample, task), items[:SAMPLES], answers, metrics))
                splits.setdefault(path.stem, {})[sampler] = {**summary, "groups": groups, "samples": samples}
    exact = {}
    if task.enumerated:
        prompt = encode(tokenizer, [_items(args.items[0])[0].prompt])[0].to(device())
        posteriors = posteriors_of(policy, prompt, algorithm, context).cpu()
        exact = exact_kl(posteriors, task.enumerated, 1 / settings.algorithm.alpha)
    write_json(args.out, {"round": args.round, "splits": splits, "exact": exact, "rows": rows})


def _items(path: Path, *, may_be_empty: bool = False) -> list[Item]:
    table = parquet.read([path], parquet.ITEMS, may_be_empty=may_be_empty)
    return [Item(**record) for record in table.drop_columns("item_id").to_pylist()]


def _sample(task: Task[TaskSettings], item: Item, answer: str, metrics: Mapping[str, float]) -> dict[str, object]:
    """An answer and its metrics, as the report shows them."""
    return {"puzzle": task.render(item, item.prompt), "answer": task.render(item, answer), **metrics}


if __name__ == "__main__":
    main(run, EvaluateSettings, __doc__, ARGUMENTS)

"""Rule `evaluate`: a round's policy on held-out prompts, by greedy decoding and by ancestral sampling.

A method that decodes in its own way takes the place of ancestral sampling. On an enumerated task the law of the
answers is exact, and KL(p* ‖ p^u) with it.
"""

from argparse import Namespace

import torch

from pipeline import records
from pipeline.algorithms.base import round_of
from pipeline.decoding import Decoder
from pipeline.evaluation import by_group, exact_kl, posteriors_of, summarize
from pipeline.files import write_json
from pipeline.language import language
from pipeline.policies import load_policy
from pipeline.registry import load, load_task
from pipeline.scoring import score
from pipeline.stages import main
from pipeline.tasks.base import Item
from pipeline.text import encode

SAMPLERS = ("greedy", "ancestral")
SAMPLES = 6


def run(args: Namespace) -> None:
    settings, evaluate = args.settings, args.settings.evaluate
    task = load_task(settings.task)
    policy, tokenizer, _ = load_policy(args.policy, settings)
    algorithm = load("algorithm", settings.algorithm.name)
    around = round_of(settings, tokenizer, {}, torch.device("cpu"))
    spoken = language(args.policy, policy, tokenizer, task, evaluate.prefill)
    decoder = Decoder(policy, spoken, algorithm, around, settings)
    result: dict[str, dict[str, object]] = {}
    for path in args.items:
        table = records.read([path], records.ITEMS, may_be_empty=path != args.items[0])
        items = [Item(**record) for record in table.drop_columns("item_id").to_pylist()]
        for name in SAMPLERS if items else ():
            answers = decoder.answers(
                name, items, task.answer_length, f"round {args.round} evaluate {path.stem} {name}"
            )
            metrics = score(task, items, answers, evaluate.reward_timeout)
            groups = by_group(metrics, [item.group for item in items])
            pictures = [
                {"puzzle": task.render(item, item.prompt), "answer": task.render(item, answer), **metric}
                for item, answer, metric in list(zip(items, answers, metrics, strict=True))[:SAMPLES]
            ]
            result.setdefault(path.stem, {})[name] = {**summarize(metrics), "groups": groups, "samples": pictures}
    exact = {}
    if task.enumerated:
        prompt = records.read(args.items[:1], records.ITEMS)["prompt"][0].as_py()
        posteriors = posteriors_of(policy, encode(tokenizer, [prompt])[0], algorithm, around)
        exact = exact_kl(posteriors, task.enumerated, 1 / settings.algorithm.alpha)
    write_json(args.out, {"round": args.round, "splits": result, "exact": exact})


if __name__ == "__main__":
    main(
        run,
        __doc__,
        {
            "items*": "splits of rule prepare to evaluate on; the first gives the headline numbers",
            "policy": "policy directory",
            "round#": "number of the round, 0 for the base",
            "out": "JSON to write",
        },
    )

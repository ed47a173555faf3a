"""Rule `evaluate`: a round's policy on held-out prompts, by greedy decoding and by ancestral sampling.

A method that decodes in its own way takes the place of ancestral sampling. On an enumerated task the law of the
answers is exact, and KL(p* ‖ p^u) with it.
"""

from argparse import Namespace
from collections.abc import Callable

import torch
from tqdm import tqdm

from pipeline import records
from pipeline.algorithms.base import round_of
from pipeline.evaluation import by_group, exact_kl, posteriors_of, summarize
from pipeline.files import write_json
from pipeline.policies import load_policy
from pipeline.registry import load, load_task
from pipeline.samplers import low_confidence
from pipeline.samplers.ancestral import rollout
from pipeline.scoring import score
from pipeline.seeding import Stream, uniforms
from pipeline.stages import main
from pipeline.tasks.base import Item
from pipeline.text import decode, encode

SAMPLES = 6


def run(args: Namespace) -> None:
    settings, evaluate = args.settings, args.settings.evaluate
    task = load_task(settings.task)
    policy, tokenizer, mask_id = load_policy(args.policy, settings)
    algorithm = load("algorithm", settings.algorithm.name)
    around = round_of(settings, tokenizer, {}, torch.device("cpu"))

    def greedy(prompt: torch.Tensor, ids: list[int]) -> torch.Tensor:
        steps = evaluate.tokens_per_step
        return low_confidence.decode(policy, prompt, task.answer_length, mask_id=mask_id, tokens_per_step=steps)

    def ancestral(prompt: torch.Tensor, ids: list[int]) -> torch.Tensor:
        keys = [(index, 0, 0) for index in ids]
        order, token = uniforms(settings.seed, Stream.EVALUATION, 0, keys, 2 * task.answer_length).chunk(2, dim=1)
        if algorithm.decode:
            return algorithm.decode(policy, prompt, torch.cat([order, token], dim=1), reward_of(ids), around)
        empty = torch.full((len(prompt), task.answer_length), mask_id)
        return rollout(policy, prompt, empty, mask_id=mask_id, order_noise=order, token_noise=token).tokens

    def reward_of(ids: list[int]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def reward(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            of = [items[ids[row]] for row in rows.tolist()]
            metrics = score(task, of, decode(tokenizer, tokens), evaluate.reward_timeout)
            return torch.tensor([metric["reward"] for metric in metrics], dtype=torch.float64)

        return reward

    result: dict[str, dict[str, object]] = {}
    for path in args.items:
        table = records.read([path], records.ITEMS, may_be_empty=path != args.items[0])
        items = [Item(**record) for record in table.drop_columns("item_id").to_pylist()]
        for name, sampler in {"greedy": greedy, "ancestral": ancestral}.items() if items else ():
            prompts, answers = encode(tokenizer, [item.prompt for item in items]), []
            title = f"round {args.round} evaluate {path.stem} {name}"
            for ids in tqdm(torch.arange(len(items)).split(evaluate.batch_size), desc=title, unit="batch"):
                answers += decode(tokenizer, sampler(prompts[ids], ids.tolist()))
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

"""Rule `evaluate`: scores of a round's policy on held-out prompts, for each decoding of `evaluate.samplers`.

A method that decodes in its own way replaces ancestral sampling. On an enumerated task KL(p* ‖ p^u) is computed
exactly. If `evaluate.shards` is more than 1, the answers come from rule `decode`.
"""

from argparse import Namespace
from functools import cache, partial

from pipeline.errors import users_code
from pipeline.evaluation.answers import Answer, decode, in_order, judged, kinds, read_shards, read_splits
from pipeline.evaluation.decoding import Decoder, load_decoder
from pipeline.evaluation.exact_kl import exact_kl, posteriors_of
from pipeline.evaluation.summary import by_group, shown, summarize, worst
from pipeline.models.policy_directory import weight_files
from pipeline.plugins import resolve_task
from pipeline.settings.stages import EvaluateSettings
from pipeline.stages.command_line import main
from pipeline.storage.atomic_files import write_json
from pipeline.storage.provenance import result_provenance
from pipeline.tasks.base import Item, Task, TaskSettings
from pipeline.text.tokenizer import encode

SAMPLES, FAILURES = 6, 6
"""Answers that the report can show: to the first items, and the worst."""

ARGUMENTS = {
    "items*": "splits of rule prepare to evaluate on; the first gives the headline numbers",
    "answers*": "the shards of rule decode; without any, the policy is decoded here",
    "policy": "policy directory",
    "round#": "number of the round, 0 for the base",
    "out": "JSON to write",
}


def run(args: Namespace, settings: EvaluateSettings) -> None:
    task, splits = resolve_task(settings.task), read_splits(args.items)
    decoder = cache(partial(load_decoder, args.policy, settings, args.compile))
    answers = read_shards(args.answers) if args.answers else decode(decoder(), splits, f"round {args.round}")
    hardware = " and ".join(sorted({answer.hardware for answer in answers}))
    made = result_provenance(settings, args.policy, weight_files(args.policy), hardware)
    summaries: dict[str, dict[str, object]] = {}
    rows = []
    found = in_order(answers, splits, kinds(splits, settings.evaluate, task))
    for (split, sampler, length), answers_of_kind in found.items():
        answered = judged(answers_of_kind, splits[split], task)
        metrics = [answer.metrics for answer in answered]
        summary = summarize(metrics)
        rows.append({"split": split, "sampler": sampler, "length": length, **made, "metrics": summary})
        if length == task.answer_length:
            groups = by_group(metrics, [item.group for item in splits[split]])
            chosen = [*range(min(SAMPLES, len(answered))), *worst(metrics, FAILURES)]
            samples = [_sample(task, splits[split][id_], answered[id_]) for id_ in dict.fromkeys(chosen)]
            summaries.setdefault(split, {})[sampler] = {**summary, "groups": groups, "samples": samples}
    exact = _exact(decoder(), splits[args.items[0].stem][0]) if task.enumerated else {}
    headline = next(iter(exact), shown(metrics[0])[-1])
    write_json(args.out, {"round": args.round, "headline": headline, "splits": summaries, "exact": exact, "rows": rows})


def _sample(task: Task[TaskSettings], item: Item, answer: Answer) -> dict[str, object]:
    """An item with its answer and metrics, as the report shows them."""
    texts = {"puzzle": item.start or item.prompt, "reference": item.reference, "answer": answer.answer}
    with users_code("the task's render or marks"):
        shown: dict[str, object] = {name: _text(task.render(item, text)) for name, text in texts.items()}
        if task.marks:
            shown["marks"] = {
                name: {str(mark): [int(place) for place in places] for mark, places in task.marks(item, text).items()}
                for name, text in texts.items()
            }
    return {**answer.metrics, "metrics": answer.metrics, "item": answer.item_id, "group": item.group, **shown}


def _text(rendered: object) -> str:
    if not isinstance(rendered, str):
        raise TypeError(f"render must return a text, not {str(rendered)[:80]}")
    rendered.encode()  # ValueError for lone surrogates
    return rendered


def _exact(decoder: Decoder, item: Item) -> dict[str, float]:
    """The exact KL of an enumerated task, whose items have one prompt."""
    context = decoder.context
    prompt = encode(decoder.prompt_format.tokenizer, [item.prompt])[0].to(context.device)
    posteriors = posteriors_of(decoder.policy, prompt, decoder.algorithm, context)
    return exact_kl(posteriors, context.problem, 1 / context.algorithm.alpha)


if __name__ == "__main__":
    main(run, EvaluateSettings, __doc__, ARGUMENTS)

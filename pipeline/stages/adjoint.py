"""Rule `adjoint`: importance weights and adjoint targets of a round's rollouts."""

from argparse import Namespace

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.algorithms.targets import Rollouts
from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy
from pipeline.plugins import load
from pipeline.runtime.distributed import device
from pipeline.runtime.memory_limits import STATES, TOKENS
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.stages import main
from pipeline.storage import parquet as records
from pipeline.storage.atomic_files import write_json
from pipeline.storage.provenance import provenance
from pipeline.text.tokenizer import buckets, load_tokenizer, token_ids


def run(args: Namespace) -> None:
    settings = args.settings
    order = [(name, "ascending") for name in ("state_id", "sample_id")]
    completions = settings.rollout.completions
    vocabulary = token_ids(load_tokenizer(args.policy))
    shards = records.read(
        args.rollouts, records.ROLLOUTS, may_be_empty=True, completions=completions, vocabulary=vocabulary
    )
    if len(shards) != (wanted := settings.rollout.prompts * completions):
        folder = args.rollouts[0].parent
        raise PipelineError(f"{folder} holds {len(shards)} rollouts, not {wanted}: delete it and run again")
    table = shards.sort_by(order)
    previous = records.read([args.kept], records.TARGETS, vocabulary=vocabulary) if args.kept else None
    paths = {"base": args.base, "previous": args.policy}

    def log_prob(name: str, rows: pa.Table, temperature: float) -> Tensor:
        model, _, mask_id = load_policy(paths[name], settings, device())
        result = torch.zeros(records.matrix(rows, "tokens").shape)
        for places in buckets(records.lengths(rows, "prompt_tokens"), len(rows)):
            prompt, tokens, unmask_step = (
                torch.from_numpy(records.matrix(rows.take(places), column)).long().to(device())
                for column in ("prompt_tokens", "tokens", "unmask_step")
            )
            path = Trajectories(tokens, unmask_step, torch.zeros(tokens.shape, device=tokens.device))
            states = max(1, min(STATES, TOKENS // (prompt.shape[1] + tokens.shape[1])))
            result[places] = path_log_prob(
                model, prompt, path, mask_id=mask_id, temperature=temperature, states_per_batch=states
            ).cpu()
        return result

    labels = load("algorithm", settings.algorithm.name).label(Rollouts(table, previous, log_prob), settings)
    records.write(args.out, labels.columns, records.TARGETS, provenance(settings))
    write_json(args.summary, labels.diagnostics)


if __name__ == "__main__":
    main(
        run,
        __doc__,
        {
            "rollouts*": "the shards of rule rollout",
            "kept?": "targets of the round before, for the replay window",
            "base": "policy directory of the base model",
            "policy": "policy directory that sampled the rollouts",
            "out": "Parquet to write",
            "summary": "JSON to write: the round's diagnostics",
        },
    )

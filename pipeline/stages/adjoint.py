"""Rule `adjoint`: importance weights and adjoint targets of a round's rollouts."""

from argparse import Namespace
from collections.abc import Mapping

import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.models.policy_directory import load_policy
from pipeline.objectives.targets import LogProb, Rollouts
from pipeline.plugins import load_algorithm, load_model
from pipeline.runtime.distributed import device
from pipeline.runtime.memory_limits import STATES, TOKENS
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.settings.algorithms import Frozen
from pipeline.settings.stages import AdjointSettings
from pipeline.stages.command_line import main
from pipeline.storage import parquet
from pipeline.storage.atomic_files import write_json
from pipeline.storage.provenance import provenance
from pipeline.text.tokenizer import buckets, load_tokenizer, token_ids


def run(args: Namespace, settings: AdjointSettings) -> None:
    algorithm, plugin = load_algorithm(settings.algorithm.name), load_model(settings.model.name)
    vocabulary, completions = token_ids(load_tokenizer(args.policy)), settings.rollout.completions
    table = parquet.read(
        args.rollouts, parquet.ROLLOUTS, may_be_empty=True, completions=completions, vocabulary=vocabulary
    )
    if len(table) != (wanted := settings.rollout.prompts * completions):
        folder = args.rollouts[0].parent
        raise PipelineError(f"{folder} holds {len(table)} rollouts, not {wanted}: delete it and run again")
    table = table.sort_by([("state_id", "ascending"), ("sample_id", "ascending")])
    previous = None
    if args.previous_targets:
        previous = parquet.read([args.previous_targets], parquet.TARGETS, vocabulary=vocabulary)
    directories = {"base": args.base, "behavior": args.policy}
    models = {
        name: load_policy(directories[name], plugin, device())
        for name in settings.algorithm.replayed_policies(settings.rollout)
    }
    mask_id = models["base"][2]
    log_prob = replay_under({name: model for name, (model, _, _) in models.items()}, mask_id)
    assert algorithm.make_targets
    targets = algorithm.make_targets(Rollouts(table, previous, settings, log_prob), settings.algorithm)
    parquet.write(args.out, targets.columns, parquet.TARGETS, provenance(settings))
    write_json(args.summary, targets.diagnostics)


def replay_under(models: Mapping[Frozen, nn.Module], mask_id: int) -> LogProb:
    """Log-probabilities of stored paths under each of the models, in batches of one prompt length."""

    def log_prob(name: Frozen, rows: pa.Table, temperature: float) -> Tensor:
        result = torch.zeros(parquet.matrix(rows, "tokens").shape)
        for places in buckets(parquet.lengths(rows, "prompt_tokens"), len(rows)):
            prompt, tokens, unmask_step = (
                torch.from_numpy(parquet.matrix(rows.take(places), column)).long().to(device())
                for column in ("prompt_tokens", "tokens", "unmask_step")
            )
            path = Trajectories(tokens, unmask_step, torch.zeros(tokens.shape, device=tokens.device))
            states = max(1, min(STATES, TOKENS // (prompt.shape[1] + tokens.shape[1])))
            result[places] = path_log_prob(
                models[name], prompt, path, mask_id=mask_id, temperature=temperature, states_per_batch=states
            ).cpu()
        return result

    return log_prob


if __name__ == "__main__":
    main(
        run,
        AdjointSettings,
        __doc__,
        {
            "rollouts*": "the shards of rule rollout",
            "previous-targets?": "targets of the round before, for the replay window",
            "base": "policy directory of the base model",
            "policy": "policy directory that sampled the rollouts",
            "out": "Parquet to write",
            "summary": "JSON to write: the round's diagnostics",
        },
    )

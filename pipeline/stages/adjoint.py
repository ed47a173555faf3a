"""Rule `adjoint`: importance weights and adjoint targets of a round's rollouts."""

from argparse import Namespace

import pyarrow as pa
import torch
from torch import Tensor

from pipeline import records
from pipeline.files import write_json
from pipeline.labels import Rollouts
from pipeline.policies import load_policy
from pipeline.provenance import provenance
from pipeline.registry import load
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.stages import main


def run(args: Namespace) -> None:
    settings = args.settings
    order = [(name, "ascending") for name in ("state_id", "sample_id")]
    table = records.read(args.rollouts, records.ROLLOUTS, completions=settings.rollout.completions).sort_by(order)
    previous = records.read([args.kept], records.TARGETS) if args.kept else None
    paths = {"base": args.base, "previous": args.policy}

    def log_prob(name: str, rows: pa.Table, temperature: float) -> Tensor:
        model, _, mask_id = load_policy(paths[name], settings)
        prompt, tokens, unmask_step = (
            torch.from_numpy(records.matrix(rows, column)).long()
            for column in ("prompt_tokens", "tokens", "unmask_step")
        )
        path = Trajectories(tokens, unmask_step, torch.zeros(tokens.shape))
        return path_log_prob(model, prompt, path, mask_id=mask_id, temperature=temperature)

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

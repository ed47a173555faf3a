"""Two tokens of M values with every stage's mathematics in memory: rollouts → labels → replay → loss."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import torch

from pipeline.algorithms.base import Algorithm, Round
from pipeline.algorithms.targets import Labels, Rollouts
from pipeline.ctmc import exact
from pipeline.models import tabular
from pipeline.plugins import load
from pipeline.samplers.ancestral import Trajectories, path_log_prob
from pipeline.samplers.round_states import sample_states
from pipeline.settings.algorithms import SETTINGS
from pipeline.settings.sections import Evaluate, Rollout
from pipeline.storage import parquet as records
from pipeline.tasks.base import Enumerated, Settings, Task

ALPHA = 0.25


class Bench:
    """A small enumerated problem; token ids are 0..M-1, M is the prompt and M + 1 is [MASK]."""

    def __init__(self, values: int = 4, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(values, values, dtype=torch.float64, generator=generator)
        self.values, self.mask_id = values, values + 1
        self.log_base = logits.flatten().log_softmax(0).view(values, values)
        self.reward = torch.rand(values, values, dtype=torch.float64, generator=generator)
        self.target = exact.tilted(self.log_base, self.reward, 1 / ALPHA)
        problem = Enumerated("".join(map(str, range(values))), self.log_base.exp().numpy(), self.reward.numpy())
        never = {"items": lambda *_: {}, "score": lambda *_: {}, "render": lambda *_: ""}
        self.task = Task(settings=Settings, alphabet="", answer_length=2, enumerated=problem, **never)

    def policy(self, log_joint: torch.Tensor, noise: float = 0.0) -> torch.nn.Module:
        """The tabular model of a joint, in float64, its logits perturbed."""
        model = tabular.create(None, self.values + 2, self.mask_id, 2).double()
        tabular.install(model, torch.arange(self.values), exact.posteriors(log_joint))
        with torch.no_grad():
            model.table += noise * torch.randn(
                model.table.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
            )
        return model

    def run(self, algorithm: str = "dam", rollout: dict | None = None, **settings: object) -> SimpleNamespace:
        section = SETTINGS[algorithm](name=algorithm, alpha=ALPHA, **settings)
        shape = {"completions": 16, "tokens_per_step": 1, **(rollout or {})}
        return SimpleNamespace(seed=0, algorithm=section, rollout=Rollout(**shape), evaluate=Evaluate())

    def rollouts(self, policy: torch.nn.Module, run: SimpleNamespace, states: int, number: int = 1) -> pa.Table:
        prompts = torch.full((states, 1), self.values)
        rows = sample_states(policy, prompts, np.zeros(states, dtype=int), range(states), 2, self.mask_id, run, number)
        reward = torch.full((self.values + 2, self.values + 2), float(self.reward.min()), dtype=torch.float64)
        reward[: self.values, : self.values] = self.reward
        rows["reward"] = reward[rows["tokens"][:, 0], rows["tokens"][:, 1]]
        return pa.table({name: rows[name].tolist() for name in records.ROLLOUTS.names}, schema=records.ROLLOUTS)

    def labels(
        self, policy: torch.nn.Module, run: SimpleNamespace, table: pa.Table, base: torch.nn.Module | None = None
    ) -> Labels:
        models = {"base": base or self.policy(self.log_base), "previous": policy}

        def log_prob(name: str, rows: pa.Table, temperature: float) -> torch.Tensor:
            prompt, tokens, step = (
                torch.from_numpy(records.matrix(rows, column)).long()
                for column in ("prompt_tokens", "tokens", "unmask_step")
            )
            path = Trajectories(tokens, step, torch.zeros(tokens.shape))
            return path_log_prob(models[name], prompt, path, mask_id=self.mask_id, temperature=temperature)

        return load("algorithm", run.algorithm.name).label(Rollouts(table, None, log_prob), run)

    def targets(self, policy: torch.nn.Module, run: SimpleNamespace, states: int, number: int = 1) -> pa.Table:
        columns = self.labels(policy, run, self.rollouts(policy, run, states, number)).columns
        return pa.table({name: columns[name] for name in records.TARGETS.names}, schema=records.TARGETS)

    def around(self, behavior: torch.nn.Module, run: SimpleNamespace) -> Round:
        return Round(
            settings=run,
            mask_id=self.mask_id,
            task=self.task,
            values=torch.arange(self.values),
            behavior=lambda: behavior,
            base=lambda: self.policy(self.log_base),
            device=torch.device("cpu"),
        )


def plugin(run: SimpleNamespace) -> Algorithm:
    algorithm: Algorithm = load("algorithm", run.algorithm.name)
    return algorithm

"""Two tokens of M values with every stage's mathematics in memory: rollouts → targets → replay → loss."""

import numpy as np
import pyarrow as pa
import torch

from pipeline.algorithms.base import Algorithm
from pipeline.ctmc import exact
from pipeline.models import tabular
from pipeline.objectives.context import DecodeContext, LossContext
from pipeline.objectives.targets import Rollouts, Targets
from pipeline.plugins import load_algorithm
from pipeline.samplers.round_states import sample_states
from pipeline.settings.algorithms import SETTINGS
from pipeline.settings.sections import Evaluate, ModelSection, Rollout
from pipeline.settings.stages import AdjointSettings
from pipeline.stages.adjoint import replay_under
from pipeline.storage import parquet
from pipeline.tasks.base import Enumerated, Task, TaskSettings
from pipeline.training.replay_buffer import Replay

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
        self.task = Task(settings=TaskSettings, alphabet="", answer_length=2, enumerated=problem, **never)

    def policy(self, log_joint: torch.Tensor, noise: float = 0.0) -> torch.nn.Module:
        """The tabular model of a joint, in float64, its logits perturbed."""
        model = tabular.create(None, self.values + 2, self.mask_id, 2).double()
        tabular.install(model, torch.arange(self.values), exact.posteriors(log_joint))
        with torch.no_grad():
            model.table += noise * torch.randn(
                model.table.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)
            )
        return model

    def run(self, algorithm: str = "dam", rollout: dict | None = None, **settings: object) -> AdjointSettings:
        section = SETTINGS[algorithm](name=algorithm, alpha=ALPHA, **settings)
        shape = {"completions": 16, "tokens_per_step": 1, **(rollout or {})}
        return AdjointSettings(seed=0, model=ModelSection(), rollout=Rollout(**shape), algorithm=section)

    def rollouts(self, policy: torch.nn.Module, run: AdjointSettings, states: int, number: int = 1) -> pa.Table:
        prompts, ids = torch.full((states, 1), self.values), np.zeros(states, dtype=int)
        rows = sample_states(policy, prompts, ids, range(states), 2, self.mask_id, run.rollout, run.seed, number)
        reward = torch.full((self.values + 2, self.values + 2), float(self.reward.min()), dtype=torch.float64)
        reward[: self.values, : self.values] = self.reward
        rows["reward"] = reward[rows["tokens"][:, 0], rows["tokens"][:, 1]]
        return pa.table({name: rows[name].tolist() for name in parquet.ROLLOUTS.names}, schema=parquet.ROLLOUTS)

    def make_targets(
        self, policy: torch.nn.Module, run: AdjointSettings, table: pa.Table, base: torch.nn.Module | None = None
    ) -> Targets:
        log_prob = replay_under({"base": base or self.policy(self.log_base), "behavior": policy}, self.mask_id)
        return plugin(run).make_targets(Rollouts(table, None, run, log_prob), run.algorithm)

    def targets(self, policy: torch.nn.Module, run: AdjointSettings, states: int, number: int = 1) -> pa.Table:
        columns = self.make_targets(policy, run, self.rollouts(policy, run, states, number)).columns
        return pa.table({name: columns[name] for name in parquet.TARGETS.names}, schema=parquet.TARGETS)

    def replay(self, targets: pa.Table, run: AdjointSettings) -> Replay:
        return plugin(run).replay(targets, run.rollout, run.algorithm, self.mask_id)

    def context(self, behavior: torch.nn.Module, run: AdjointSettings) -> LossContext:
        return LossContext(
            run.algorithm,
            self.task,
            self.mask_id,
            torch.arange(self.values),
            run.rollout,
            frozen={"behavior": behavior, "base": self.policy(self.log_base)},
        )

    def decoding(self, run: AdjointSettings) -> DecodeContext:
        return DecodeContext(run.algorithm, self.task, self.mask_id, torch.arange(self.values), run.seed, Evaluate())


def plugin(run: AdjointSettings) -> Algorithm:
    return load_algorithm(run.algorithm.name)

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
from pipeline.settings.sections import Evaluate, Rollout
from pipeline.settings.stages import AdjointSettings
from pipeline.stages.reference import log_prob_of
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
        return AdjointSettings(seed=0, rollout=Rollout(**shape), algorithm=section)

    def starts(self, count: int) -> torch.Tensor:
        """Empty answers."""
        return torch.full((count, 2), self.mask_id)

    def rollouts(self, policy: torch.nn.Module, run: AdjointSettings, states: int, number: int = 1) -> pa.Table:
        prompts, ids = torch.full((states, 1), self.values), np.zeros(states, dtype=int)
        rows = sample_states(
            policy, prompts, ids, self.starts(states), range(states), self.mask_id, run.rollout, run.seed, number
        )
        reward = torch.full((self.values + 2, self.values + 2), float(self.reward.min()), dtype=torch.float64)
        reward[: self.values, : self.values] = self.reward
        rows["reward"] = reward[rows["tokens"][:, 0], rows["tokens"][:, 1]]
        return pa.table({name: rows[name].tolist() for name in parquet.ROLLOUTS.names}, schema=parquet.ROLLOUTS)

    def make_targets(
        self,
        run: AdjointSettings,
        table: pa.Table,
        base: torch.nn.Module | None = None,
        previous: pa.Table | None = None,
    ) -> Targets:
        log_prob = log_prob_of(base or self.policy(self.log_base), table, self.mask_id)
        columns = {name: table.column(name) for name in ("state_id", "sample_id")}
        reference = pa.table({**columns, "base_log_prob": log_prob.tolist()}, schema=parquet.REFERENCES)
        return plugin(run).make_targets(Rollouts(table, reference, previous, run), run.algorithm)

    def targets(
        self,
        policy: torch.nn.Module,
        run: AdjointSettings,
        states: int,
        number: int = 1,
        previous: pa.Table | None = None,
    ) -> pa.Table:
        columns = self.make_targets(run, self.rollouts(policy, run, states, number), previous=previous).columns
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


def inconsistent() -> torch.Tensor:
    """Conditionals of no joint law: p(x_1 = 1 | ··) = .9, but p(x_1 = 1 | x_2) = .1; x_2 is a fair coin."""
    first = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)  # the last row: both masked
    return torch.stack([first, torch.full((3, 2), 0.5, dtype=torch.float64)]).log()

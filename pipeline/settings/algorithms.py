"""The section `algorithm` of each method, torch-free: the Snakefile validates it before anything starts."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.settings.sections import Rollout
from pipeline.settings.validation import PluginSection

Frozen = Literal["base", "behavior"]
"""A policy that does not train: the base model, or the policy that drew the round's rollouts."""


class Settings(PluginSection):
    """What every method has. α is that of the optimum p* ∝ p^base e^{r/α}, for methods that aim at it.

    The KL to the base is estimated from `kl_rollouts` trajectories of each round.

    Class attributes, for the check before anything runs:
        needs: "exact" (an enumerated task), "differentiable_reward" (a reward of one-hot rows; tables are).
        trains: False for a method that only decodes: it wants `rounds: 0`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[bool] = True
    renamed: ClassVar[Mapping[str, str]] = {"ess": "min_ess", "window": "replay_rounds", "clip": "epsilon"}

    alpha: PositiveFloat = 0.01
    kl_rollouts: PositiveInt = 512

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        """The policies that the loss reads beside the one that trains; `train` opens these and no others."""
        return ()

    def replayed_policies(self, rollout: Rollout) -> tuple[Frozen, ...]:
        """The policies under which rule `adjoint` replays rollouts; all methods replay the base, for the KL to it."""
        return ("base",)

    def conflict(self, rollout: Rollout) -> str:
        """What is wrong with the section `rollout` for this method, "" if nothing."""
        return ""


class Statewise(Settings):
    """A method whose loss is taken at the states x from which K completions start."""

    def conflict(self, rollout: Rollout) -> str:
        wrong = f"name: {self.name} needs rollout.start: remasked, or it would see the empty answer only"
        return "" if rollout.start == "remasked" else wrong


class Dam(Settings):
    """Discrete Adjoint Matching; see `pipeline/algorithms/dam.py` for what each choice means."""

    tilt: Literal["direct", "annealed"] = "annealed"
    jumps: Literal["first", "all"] = "all"
    loss: Literal["generalized_kl", "squared"] = "generalized_kl"
    control_variate: bool = False
    gain: float = Field(default=1.0, gt=0, le=1)
    replay_rounds: PositiveInt = 3
    min_ess: float = Field(default=0.5, gt=0, le=1)
    largest_step: PositiveFloat = 20.0

    @model_validator(mode="after")
    def _control(self) -> "Dam":
        if self.control_variate and (self.jumps, self.replay_rounds, self.loss) != ("first", 1, "generalized_kl"):
            raise ValueError("control_variate needs jumps: first, replay_rounds: 1 and loss: generalized_kl")
        return self

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        return ("behavior",) if self.control_variate else ()

    def replayed_policies(self, rollout: Rollout) -> tuple[Frozen, ...]:
        return ("base", "behavior") if self.tilt == "annealed" and rollout.temperature != 1 else ("base",)

    def conflict(self, rollout: Rollout) -> str:
        wanted = ("remasked", "random", None)
        if self.control_variate and (rollout.start, rollout.order, rollout.block_length) != wanted:
            return "control_variate needs rollout.start: remasked, rollout.order: random and no rollout.block_length"
        return ""


class DamAnalytic(Statewise):
    """The adjoint by enumeration; see `pipeline/algorithms/dam_analytic.py`."""

    needs: ClassVar[frozenset[str]] = frozenset({"exact"})


class Dtm(Statewise):
    """Discrete Tilt Matching; see `pipeline/algorithms/dtm.py`. 1/α_k is the largest step with ESS ≥ min_ess · K."""

    control_variate: bool = True
    min_ess: float = Field(default=0.5, gt=0, le=1)
    largest_step: PositiveFloat = 20.0

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        return ("behavior",) if self.control_variate else ()

    def conflict(self, rollout: Rollout) -> str:
        wrong = "name: dtm needs rollout.temperature: 1, since it never asks how likely a rollout was"
        return super().conflict(rollout) or ("" if rollout.temperature == 1 else wrong)


class Surrogate(Settings):
    """A clipped policy gradient: ρ is kept within 1 ± `epsilon`, and `beta` times the KL to the base is added."""

    epsilon: PositiveFloat = 0.5
    beta: float = Field(default=0.0, ge=0)

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        return ("behavior", "base") if self.beta else ("behavior",)


class DiffuGrpo(Surrogate):
    """D1; see `pipeline/algorithms/diffu_grpo.py`. A prompt token is masked with chance `prompt_mask`."""

    beta: float = Field(default=0.04, ge=0)
    prompt_mask: float = Field(default=0.15, ge=0, lt=1)


class CoupledGrpo(Surrogate):
    """DiffuCoder; see `pipeline/algorithms/coupled_grpo.py`. t ~ U(low, high)."""

    beta: float = Field(default=0.01, ge=0)
    low: float = Field(default=0.2, gt=0, lt=1)
    high: float = Field(default=0.8, gt=0, lt=1)


class Agrpo(Surrogate):
    """Policy gradients of single denoising steps; see `pipeline/algorithms/agrpo.py`."""


class Drakes(Settings):
    """Reward back-propagation; see `pipeline/algorithms/drakes.py`. `softness` is the Gumbel-softmax temperature."""

    needs: ClassVar[frozenset[str]] = frozenset({"differentiable_reward"})
    softness: PositiveFloat = 1.0

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        return ("base",)


class Svdd(Settings):
    """Value-guided decoding of the base; see `pipeline/algorithms/svdd.py`."""

    trains: ClassVar[bool] = False
    value: Literal["mc", "pm"] = "mc"
    candidates: PositiveInt = 10
    lookahead: PositiveInt = 4


SETTINGS: dict[str, type[Settings]] = {
    "agrpo": Agrpo,
    "coupled_grpo": CoupledGrpo,
    "dam": Dam,
    "dam_analytic": DamAnalytic,
    "diffu_grpo": DiffuGrpo,
    "drakes": Drakes,
    "dtm": Dtm,
    "raft": Settings,
    "svdd": Svdd,
}

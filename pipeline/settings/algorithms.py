"""The section `algorithm` of each method, torch-free: the Snakefile validates it before anything starts."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.settings.method import Frozen, Settings
from pipeline.settings.sections import Rollout


class Stepwise(Settings):
    """A method that goes a part of its way in each round.

    The step of a round is the largest at which the mean effective sample size (ESS) of the groups whose rewards differ
    is at least `min_ess` of what it is without a step; `largest_step` may bound it in units of 1/reward. At
    `min_ess` 1 no step would be allowed. Targets of the last `replay_rounds` rounds are used together.
    """

    replay_rounds: PositiveInt = 3
    min_ess: float = Field(default=0.5, gt=0, lt=1)
    largest_step: PositiveFloat | None = None


class Dam(Stepwise):
    """Discrete Adjoint Matching; see `pipeline/algorithms/dam.py` for what each choice means.

    `jumps` is null for the choice that is unbiased for every base: first with `rollout.start: remasked`, else all.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        **Settings.renamed,
        "tilt": "weights: direct or tempered; what `tilt: annealed` did is the algorithm rwr",
    }

    replays_all: ClassVar[bool] = True
    weights: Literal["tempered", "direct"] = "tempered"
    jumps: Literal["first", "all"] | None = None
    loss: Literal["generalized_kl", "squared"] = "generalized_kl"
    control_variate: bool = False
    gain: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _control(self) -> "Dam":
        if self.control_variate and (self.jumps, self.replay_rounds, self.loss) != ("first", 1, "generalized_kl"):
            raise ValueError("control_variate needs jumps: first, replay_rounds: 1 and loss: generalized_kl")
        return self

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        return ("behavior",) if self.control_variate else ()

    @property
    def whole_distribution(self) -> bool:
        return self.control_variate or self.loss == "squared"

    def conflict(self, rollout: Rollout, *, exact_base: bool) -> str:
        wanted = ("remasked", "random", None)
        if self.control_variate and (rollout.start, rollout.order, rollout.block_length) != wanted:
            return "control_variate needs rollout.start: remasked, rollout.order: random and no rollout.block_length"
        if self.loss == "squared" and rollout.block_length:
            return "loss: squared takes no rollout.block_length: it would also move tokens of blocks without a target"
        damped = self.weights == "tempered" or (self.control_variate and self.gain < 1)
        if damped and rollout.temperature != 1:
            return (
                "weights: tempered, like a gain below 1, needs rollout.temperature: 1: a round goes a part of the way"
                " to p*, and each would start from a sharper or flatter policy; take weights: direct, and gain: 1"
            )
        if rollout.start == "remasked" and self.jumps == "all" and not exact_base:
            return (
                "jumps: all with rollout.start: remasked is biased unless the base is an exact joint (base.exact): the"
                " two orders of revealing two tokens disagree; take jumps: first, or rollout.start: empty"
            )
        return ""


class Remasking(Settings):
    """A method that re-masks completions of the empty answer."""

    def conflict(self, rollout: Rollout, *, exact_base: bool) -> str:
        wrong = f"name: {self.name} needs rollout.start: empty, since it re-masks completions itself"
        return "" if rollout.start == "empty" else wrong


class Rwr(Stepwise, Remasking):
    """Reward-weighted regression with an annealed temperature; see `pipeline/algorithms/rwr.py`."""

    def conflict(self, rollout: Rollout, *, exact_base: bool) -> str:
        wrong = "name: rwr needs rollout.temperature: 1, since it never asks how likely a rollout was"
        return super().conflict(rollout, exact_base=exact_base) or ("" if rollout.temperature == 1 else wrong)


class Raft(Remasking):
    """The best completions of the last `replay_rounds` rounds; see `pipeline/algorithms/raft.py`."""

    replay_rounds: PositiveInt = 3


class Dmpo(Remasking):
    """Distribution Matching Policy Optimization; see `pipeline/algorithms/dmpo.py`."""

    replays_all: ClassVar[bool] = True

    def rows_together(self, rollout: Rollout) -> int:
        """The completions of a group under two masks and their complements: their weights add up to 0."""
        return 4 * rollout.completions


class DamAnalytic(Settings):
    """The adjoint by enumeration; see `pipeline/algorithms/dam_analytic.py`."""

    needs: ClassVar[str] = "exact"

    def conflict(self, rollout: Rollout, *, exact_base: bool) -> str:
        wrong = f"name: {self.name} needs rollout.start: remasked, or it would see the empty answer only"
        return "" if rollout.start == "remasked" else wrong


class Dtm(Remasking):
    """Discrete Tilt Matching; see `pipeline/algorithms/dtm.py`. A round tilts by `step` (h), and all of them by 1/α."""

    restarts_optimizer: ClassVar[bool] = True
    frozen: ClassVar[tuple[Frozen, ...]] = ("behavior",)
    whole: ClassVar[bool] = True
    step: PositiveFloat = 5.0


class Surrogate(Settings):
    """A clipped policy gradient: ρ is kept within 1 ± `epsilon`, and `beta` times the KL to the base is added."""

    epsilon: PositiveFloat = 0.5
    beta: float = Field(default=0.0, ge=0)

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        return ("behavior", "base") if self.beta else ("behavior",)


class DiffuGrpo(Surrogate):
    """D1; see `pipeline/algorithms/diffu_grpo.py`. A prompt token is masked with chance `prompt_mask`."""

    share_read: ClassVar[float] = 1.0
    beta: float = Field(default=0.04, ge=0)
    prompt_mask: float = Field(default=0.15, ge=0, lt=1)


class CoupledGrpo(Surrogate):
    """DiffuCoder; see `pipeline/algorithms/coupled_grpo.py`. t ~ U(low, high)."""

    beta: float = Field(default=0.01, ge=0)
    low: float = Field(default=0.2, gt=0, lt=1)
    high: float = Field(default=0.8, gt=0, lt=1)

    def passes(self, rollout: Rollout) -> int:
        return 1 + 2 * rollout.completions


class Agrpo(Surrogate):
    """Policy gradients of single denoising steps; see `pipeline/algorithms/agrpo.py`."""

    epsilon: PositiveFloat = 0.2

    def conflict(self, rollout: Rollout, *, exact_base: bool) -> str:
        wrong = (
            "name: agrpo needs rollouts without rollout.cache and at rollout.temperature: 1, since it learns from the"
            " steps' own log-probabilities"
        )
        return wrong if rollout.cache or rollout.temperature != 1 else ""


class Drakes(Settings):
    """Reward back-propagation; see `pipeline/algorithms/drakes.py`. `softness` is the Gumbel-softmax temperature."""

    needs: ClassVar[str] = "differentiable_reward"
    frozen: ClassVar[tuple[Frozen, ...]] = ("base",)
    softness: PositiveFloat = 1.0


class BestOf(Settings):
    """The best of `candidates` answers of the base; see `pipeline/algorithms/best_of.py`. 1 is plain sampling."""

    trains: ClassVar[bool] = False
    candidates: PositiveInt = 16

    def own_decoding(self, length: int, tokens_per_step: int) -> tuple[int, float, float]:
        others = (self.candidates - 1) * length
        return 1, others / tokens_per_step, others


class Svdd(Settings):
    """Value-guided decoding of the base; see `pipeline/algorithms/svdd.py`."""

    trains: ClassVar[bool] = False
    value: Literal["mc", "pm"] = "mc"
    candidates: PositiveInt = 10
    lookahead: PositiveInt = 4

    def own_decoding(self, length: int, tokens_per_step: int) -> tuple[int, float, float]:
        """The values of the candidates in each step: by one pass (pm), or by `lookahead` rollouts of L/2 steps (mc)."""
        values = self.candidates * length / tokens_per_step
        if self.value == "pm":
            return self.candidates, values, values * length / 2
        passes = values * (self.lookahead * length / 2)
        return self.candidates * self.lookahead, passes, passes


SETTINGS: dict[str, type[Settings]] = {
    "agrpo": Agrpo,
    "best_of": BestOf,
    "coupled_grpo": CoupledGrpo,
    "dam": Dam,
    "dam_analytic": DamAnalytic,
    "diffu_grpo": DiffuGrpo,
    "dmpo": Dmpo,
    "drakes": Drakes,
    "dtm": Dtm,
    "raft": Raft,
    "rwr": Rwr,
    "svdd": Svdd,
}

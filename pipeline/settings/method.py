"""What the section `algorithm` of every method has, and what is known of a method before anything runs. Torch-free."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from pipeline.settings.sections import Rollout
from pipeline.settings.validation import PluginSection

Frozen = Literal["base", "behavior"]
"""A policy that does not train: the base model, or the policy that drew the round's rollouts."""


class Settings(PluginSection):
    """What every method has. α is that of the optimum p* ∝ p^base e^{r/α}, for methods that aim at it.

    The KL to the base is estimated from `kl_rollouts` of a round's rollouts, or from all of them with `replays_all`.

    Class attributes, for the check before anything runs:
        needs: what only an enumerated task has: "exact" values, a "differentiable_reward" of one-hot rows.
        trains: False for a method that only decodes: it wants `rounds: 0`.
        restarts_optimizer: whether a round starts without the moments of the one before, and with a new warm-up.
        frozen: `frozen_policies`, if the settings do not change them.
        replays_all: whether the weights need log p^base of every rollout.
        share_read: of an answer's tokens, those whose log-probabilities the loss reads in a pass, on average.
        whole: `whole_distribution`, if the settings do not change it.
    """

    needs: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    restarts_optimizer: ClassVar[bool] = False
    frozen: ClassVar[tuple[Frozen, ...]] = ()
    replays_all: ClassVar[bool] = False
    share_read: ClassVar[float] = 0.5
    whole: ClassVar[bool] = False
    renamed: ClassVar[Mapping[str, str]] = {"ess": "min_ess", "window": "replay_rounds", "clip": "epsilon"}

    alpha: float = Field(default=0.01, ge=1e-12)
    kl_rollouts: PositiveInt = 512

    @property
    def frozen_policies(self) -> tuple[Frozen, ...]:
        """The policies that the loss reads beside the one that trains; `train` opens these and no others."""
        return self.frozen

    @property
    def whole_distribution(self) -> bool:
        """Whether the loss reads log p(v | x, i) of all tokens v, not of those in the completions alone."""
        return self.whole

    def held_whole(self, rollout: Rollout, answer: int) -> int:
        """Of an answer's tokens, those at which the loss holds all of log p(v | x, i) at once: at most a block."""
        return min(answer, rollout.block_length or answer) if self.whole_distribution else 0

    def passes(self, rollout: Rollout) -> int:
        """How many sequences the loss passes through the policy for each state of a training batch."""
        return 1

    def rows_together(self, rollout: Rollout) -> int:
        """How many rows of a training batch belong together: `train.batch_size` is a multiple of it."""
        return 1

    def own_decoding(self, length: int, tokens_per_step: int) -> tuple[int, float, float]:
        """What the method's own decoding of an answer of `length` tokens costs beside ancestral sampling: states that
        are passed through the policy at once, passes of single states, and the positions that these read."""
        return 1, 0.0, 0.0

    def replayed(self, rollout: Rollout) -> int:
        """How many rollouts of a round are replayed under the base."""
        every = rollout.prompts * rollout.completions
        return every if self.replays_all else min(self.kl_rollouts, every)

    def conflict(self, rollout: Rollout, *, exact_base: bool) -> str:
        """What is wrong with the section `rollout`, "" if nothing. `exact_base`: the base is one joint law."""
        return ""

"""The sections of a run in params.yaml, one class each: types, defaults, and what they mean."""

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from pipeline.settings.validation import Section, known_plugin, none_twice

Beta = Annotated[float, Field(ge=0, lt=1)]
Size = Annotated[int, Field(ge=1, le=10**7)]
Sampler = Literal["greedy", "ancestral", "ancestral_confidence"]
TASK = "task"
"""`base.data`: the task's own split."""


class ModelSection(Section):
    """The embedded model; ignored when `base.path` names a saved one. `mlp` has width and depth, `tabular` nothing.

    `dtype` is the type of the weights, of an imported base too; what trains is kept in float32 beside them.
    `block_length` is for families that see their input block by block: the length of a block, also of an imported base
    whose config.json does not say it; null is that of the checkpoint or the family's own.
    """

    name: str = "llada"
    dtype: Literal["float32", "bfloat16"] = "float32"
    hidden_size: Size = 64
    intermediate_size: Size = 168
    num_hidden_layers: int = Field(default=3, ge=1, le=1000)
    num_attention_heads: Size = 8
    rope_theta: PositiveFloat = 30.0
    initializer_range: PositiveFloat = 0.06
    block_length: Size | None = None

    @model_validator(mode="after")
    def _usable(self) -> "ModelSection":
        known_plugin("model", self.name)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("hidden_size must be a multiple of 2 · num_attention_heads (rotary embeddings turn pairs)")
        return self


class Optimizer(Section):
    """AdamW with linear warm-up. All batch sizes are global: the number of processes does not change them.

    `batch_size` is cut into `gradient_accumulation_steps` parts; gradients are clipped to the norm `max_grad_norm`.
    `gradient_checkpointing` keeps only each layer's input and computes the layer again in the backward pass; with null
    that happens where the memory of the GPU is calculated to be too small without, and the log says so.
    """

    renamed: ClassVar[Mapping[str, str]] = {"accumulation": "gradient_accumulation_steps", "clip": "max_grad_norm"}

    batch_size: PositiveInt = 256
    gradient_accumulation_steps: PositiveInt = 1
    lr: PositiveFloat = 1e-3
    warmup: int = Field(default=20, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    gradient_checkpointing: bool | None = None

    @model_validator(mode="after")
    def _divides(self) -> "Optimizer":
        if self.batch_size % self.gradient_accumulation_steps:
            parts = self.gradient_accumulation_steps
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of gradient_accumulation_steps {parts}")
        return self


class Adapter(Section):
    """LoRA on the linear layers named by `targets`, W x + (alpha/rank) B A x. The defaults are those of d1.

    The masks of `dropout` belong to the rows of a batch: how it is split over steps and processes changes none.
    """

    rank: PositiveInt = 128
    alpha: PositiveInt = 64
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )


class Base(Optimizer):
    """Masked-diffusion pre-training; the learning rate falls linearly to 0. Or `path`: a saved model to start from, a
    directory or a name on the Hub; `revision` is then the commit, branch or tag, and null the newest commit.

    Or `exact: true`: the posteriors of the task's own joint, for an enumerated task and a model that can hold them.
    `lengths` are the numbers of answer tokens that the updates learn in turn, filled up with the task's end token; null
    is the task's own.
    `data` is what the base learns from: `task`, the task's own split `base`, which a base without `path` learns from by
    default, or a .txt, .jsonl, .csv or .parquet file of one's own. With `path` it fine-tunes the saved model with the
    same objective: all weights, or with `adapter` LoRA adapters, which are merged into the weights at the end.
    """

    path: str | None = None
    revision: str | None = None
    exact: bool = False
    data: str | None = None
    updates: PositiveInt = 1500
    lengths: tuple[PositiveInt, ...] | None = None
    adapter: Adapter | None = None

    @model_validator(mode="after")
    def _of_the_hub(self) -> "Base":
        if self.revision and not self.path:
            raise ValueError("revision is that of a path, a name on the Hub, which is missing")
        return self

    @property
    def trains(self) -> bool:
        """Whether the base is trained here, not only copied."""
        return self.data is not None or (self.path is None and not self.exact)

    @property
    def file(self) -> str | None:
        """The file that the base learns from, if it is not the task's split."""
        return None if self.data == TASK else self.data


class Train(Optimizer):
    """One round of matching. Round k uses lr · lr_decay^(k-1), so that later rounds can be added.

    With `adapter: {}` LoRA adapters train and the base stays as it is; without, all weights train. With `ema` the
    policy of a round is the exponential moving average of its weights over the updates, with this decay.
    """

    updates: PositiveInt = 60
    lr_decay: float = Field(default=0.9, gt=0, le=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    adapter: Adapter | None = None


class InBlocks(Section):
    """Answers that are revealed block by block, `block_length` positions each, from left to right; null is one block.

    With `cache: block` only the first step of a block passes the whole sequence through the model; the others pass the
    block alone, with the keys and values of all other positions from that first step. This changes the law of the
    answers; the one really sampled is recorded and replayed exactly.
    """

    block_length: PositiveInt | None = None
    cache: Literal["block"] | None = None

    @model_validator(mode="after")
    def _blocks(self) -> "InBlocks":
        if self.cache and self.block_length is None:
            raise ValueError("cache: block needs a block_length")
        return self

    @property
    def cached_blocks(self) -> int | None:
        """The block length if there is a cache."""
        return self.block_length if self.cache else None


class Rollout(InBlocks):
    """Each round takes `prompts` states x and draws K = `completions` trajectories from each.

    With `start: empty` x is the empty answer; with `start: remasked` it is a rollout of its own, re-masked at a random
    level (the paper's reciprocal projection). `batch_size` trajectories are drawn at once, or as many fewer as make
    whole groups; at least K. `shards` is the number of files, and of jobs that may run at once; it
    changes no row. `prefill` begins every answer of a chat task. `length` is the number of answer tokens that are drawn
    and trained on; null is the task's own.
    """

    renamed: ClassVar[Mapping[str, str]] = {"branch": "start, with empty for root and remasked for reciprocal"}

    start: Literal["empty", "remasked"] = "empty"
    shards: int = Field(default=2, ge=1, le=100)
    prompts: Size = 256
    completions: int = Field(default=16, ge=2, le=10**7)
    length: PositiveInt | None = None
    order: Literal["random", "confidence"] = "random"
    tokens_per_step: Size = 2
    temperature: PositiveFloat = 1.0
    prefill: str = ""
    batch_size: PositiveInt = 256
    reward_timeout: PositiveFloat = 10.0

    @property
    def trajectories(self) -> int:
        """How many trajectories a round draws, those that make the states included."""
        return self.prompts * (self.completions + (self.start == "remasked"))


def judged_by(samplers: Collection[str]) -> Sampler:
    """The sampler that gives the headline: greedy decoding where it is asked for, else ancestral sampling."""
    return "greedy" if "greedy" in samplers else "ancestral"


class Evaluate(InBlocks):
    """Decoding of the held-out prompts: the base, every `every`-th round and the last.

    `samplers`: `greedy` is LLaDA's low-confidence remasking; `ancestral` draws from the policy at temperature 1 and
    reveals positions in random order; `ancestral_confidence` reveals first where the policy is most confident. The last
    two are the laws of rollouts with that `order` and as many `tokens_per_step` as here. Greedy decoding gives the
    headline, ancestral sampling where `greedy` is left out. `lengths` are the numbers of answer tokens to decode with,
    of which the task's own gives the headline; null is that one alone. `shards` is the number of jobs that may decode
    at once; it changes no number. The rest is as in `rollout`; the published protocol has no cache.
    """

    every: PositiveInt = 2
    shards: int = Field(default=1, ge=1, le=100)
    samplers: tuple[Sampler, ...] = Field(default=("greedy", "ancestral"), min_length=1)
    lengths: tuple[PositiveInt, ...] | None = None
    tokens_per_step: Size = 1
    prefill: str = ""
    batch_size: PositiveInt = 256
    reward_timeout: PositiveFloat = 10.0

    _once = field_validator("samplers", "lengths")(none_twice)

    def rounds(self, last: int) -> list[int]:
        """The rounds that are evaluated when `last` is the last; 0 is the base."""
        return [number for number in range(last + 1) if number % self.every == 0 or number == last]

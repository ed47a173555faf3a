"""LLaDA (arXiv 2502.09992): a Llama without the causal mask that predicts masked tokens.

The embedded tiny model and the 8B one are this class; sizes come from the configuration only.
"""

from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaModel, LlamaPreTrainedModel
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pipeline.errors import PipelineError
from pipeline.models.base import Model, read_config


class LladaConfig(LlamaConfig):
    """A `LlamaConfig` with bidirectional attention and the id of [MASK]."""

    model_type = "llada"
    is_causal: bool = False
    use_cache: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None


class LladaForMaskedLM(LlamaPreTrainedModel):
    config_class = LladaConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LladaConfig):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "n T"],
        attention_mask: Tensor | None = None,
        select: Bool[Tensor, "n T"] | None = None,
    ) -> MaskedLMOutput:
        """Logits of the clean token at every position, or at the selected ones only.

        Args:
            select: positions to read. The head then runs on these rows alone and `logits` has the shape
                [number selected, V], in row-major order, instead of [n, T, V].

        [MASK] is never a clean token: its logit is -inf.
        """
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if select is not None:
            hidden = hidden[select]
        logits = self.lm_head(hidden).float()
        logits[..., self.config.mask_token_id] = -torch.inf
        return MaskedLMOutput(logits=logits)


def create(settings: Any, vocabulary: int, mask_id: int, length: int = 0) -> LladaForMaskedLM:
    """Fresh weights, drawn from PyTorch's global generator: seed it before. Answers may have any length."""
    config = LladaConfig(
        vocab_size=vocabulary,
        mask_token_id=mask_id,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.num_attention_heads,
        num_key_value_heads=settings.num_attention_heads,
        initializer_range=settings.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
    )
    return LladaForMaskedLM(config)


def load(path: Path) -> LladaForMaskedLM:
    """A saved model, every tensor accounted for.

    Raises:
        PipelineError: if the directory is not a model's, holds another architecture, or any tensor is missing,
            unexpected or of another shape.
    """
    read_config(path, LladaConfig.model_type)
    try:
        loaded: Any = LladaForMaskedLM.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise PipelineError(f"cannot load the weights in '{path}': {' '.join(str(error).split())[:300]}") from error
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise PipelineError(
                f"'{path}': {problem.replace('_', ' ')}: {', '.join(map(str, sorted(info[problem])[:3]))}"
            )
    return model.eval()


def save(model: nn.Module, path: Path) -> None:
    """A directory that `load` and `from_pretrained` open."""
    cast(LladaForMaskedLM, model).save_pretrained(path)


disable_progress_bar()
set_verbosity_error()  # what `load` finds wrong is an error of ours, in one line
AutoConfig.register(LladaConfig.model_type, LladaConfig, exist_ok=True)
AutoModelForMaskedLM.register(LladaConfig, LladaForMaskedLM, exist_ok=True)
PLUGIN = Model(create=create, load=load, save=save)

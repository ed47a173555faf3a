"""Checkpoints of Dream and SDAR as the Hub has them, written from scratch, and the models in plain PyTorch."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import pre_tokenizers

from tests.models import hub

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHARED = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "use_sliding_window": False,
}
SMALL = {
    "bos_token_id": 37,
    "eos_token_id": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "mask_token_id": 38,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rope_theta": 100.0,
    "torch_dtype": "float32",
    "vocab_size": 40,
}


@dataclass(frozen=True)
class Published:
    """A family as its authors describe it: their config.json, mask token, and what differs from a Llama."""

    config: dict
    mask: str
    mask_id: int
    vocabulary: int
    tokenizer: str
    biases: bool = False
    norms: bool = False
    shifted: bool = False
    blocks: bool = False

    @property
    def small(self) -> dict:
        return {**self.config, **SMALL, **({"head_dim": 12} if self.norms else {})}


DREAM = Published(
    {
        **SHARED,
        "architectures": ["DreamModel"],
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "mask_token_id": 151666,
        "max_position_embeddings": 131072,
        "model_type": "Dream",
        "pad_token_id": 151643,
        "use_mrope": False,
        "vocab_size": 152064,
    },
    mask="<|mask|>",
    mask_id=151666,
    vocabulary=152064,
    tokenizer="DreamTokenizer",
    biases=True,
    shifted=True,
)
SDAR = Published(
    {
        **SHARED,
        "architectures": ["SDARForCausalLM"],
        "attention_bias": False,
        "attn_implementation": "flex_attention",
        "auto_map": {
            "AutoConfig": "configuration_sdar.SDARConfig",
            "AutoModel": "modeling_sdar.SDARModel",
            "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
        },
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "model_type": "sdar",
        "vocab_size": 151936,
    },
    mask="<|MASK|>",
    mask_id=151669,
    vocabulary=151936,
    tokenizer="Qwen2Tokenizer",
    norms=True,
    blocks=True,
)
KINDS = {"dream": DREAM, "sdar": SDAR}


def shapes(kind: Published, config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint by its name on the Hub."""
    width, middle, rows = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    size = config.get("head_dim") or width // config["num_attention_heads"]
    wide, narrow = size * config["num_attention_heads"], size * config["num_key_value_heads"]
    block = {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    for name, outputs in (("q", wide), ("k", narrow), ("v", narrow)):
        block[f"self_attn.{name}_proj.weight"] = (outputs, width)
        if kind.biases:
            block[f"self_attn.{name}_proj.bias"] = (outputs,)
    if kind.norms:
        block |= {"self_attn.q_norm.weight": (size,), "self_attn.k_norm.weight": (size,)}
    block |= {"self_attn.o_proj.weight": (width, wide), "mlp.gate_proj.weight": (middle, width)}
    block |= {"mlp.up_proj.weight": (middle, width), "mlp.down_proj.weight": (width, middle)}
    layers = range(config["num_hidden_layers"])
    found = {f"model.layers.{n}.{name}": shape for n in layers for name, shape in block.items()}
    found |= {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
    return found if config["tie_word_embeddings"] else {**found, "lm_head.weight": (rows, width)}


def random_tensors(kind: Published, config: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = config["hidden_size"] ** -0.5
    return {
        name: (torch.randn(shape, generator=generator) * scale + (1.0 if "norm" in name else 0.0)).to(dtype)
        for name, shape in shapes(kind, config).items()
    }


def logits(kind: Published, config: dict, tensors: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The published model on one sequence without padding: [T] -> [T, V], logits of the token at each position."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    place = torch.arange(len(tokens))
    angle = place[:, None] / config["rope_theta"] ** (torch.arange(0, size, 2) / size)
    turn = torch.polar(torch.ones_like(angle), angle)
    seen = torch.ones(len(tokens), len(tokens), dtype=torch.bool)
    if kind.blocks:
        block = place // config.get("block_size", 4)
        seen = block[None] <= block[:, None]

    def norm(x, weight):
        return weight * x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + config["rms_norm_eps"])

    def rotated(x):
        pairs = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1)) * turn[:, None]
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    x = tensors["model.embed_tokens.weight"][tokens]
    for n in range(config["num_hidden_layers"]):
        start = f"model.layers.{n}."
        b = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        h, parts = norm(x, b["input_layernorm.weight"]), {}
        for name in "qkv":
            part = h @ b[f"self_attn.{name}_proj.weight"].T + b.get(f"self_attn.{name}_proj.bias", 0.0)
            parts[name] = part.unflatten(1, (-1, size))
            if kind.norms and name != "v":
                parts[name] = norm(parts[name], b[f"self_attn.{name}_norm.weight"])
        q, k = rotated(parts["q"]), rotated(parts["k"])
        out = []
        for head in range(heads):
            group = head // (heads // groups)
            score = (q[:, head] @ k[:, group].T / size**0.5).masked_fill(~seen, -torch.inf)
            out.append(score.softmax(dim=1) @ parts["v"][:, group])
        x = x + torch.cat(out, dim=1) @ b["self_attn.o_proj.weight"].T
        h = norm(x, b["post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(h @ b["mlp.gate_proj.weight"].T)
        x = x + (gate * (h @ b["mlp.up_proj.weight"].T)) @ b["mlp.down_proj.weight"].T
    head = tensors["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    result = norm(x, tensors["model.norm.weight"]) @ head.T
    if kind.shifted:
        result = torch.cat([result[:1], result[:-1]])
    result[:, config.get("mask_token_id", kind.mask_id)] = -torch.inf
    return result


def write_chat(path: Path, kind: Published, dtype: torch.dtype = torch.bfloat16, **changes: object) -> Path:
    """A small checkpoint of the full vocabulary that can be spoken to: bytes are its tokens, most ids are fillers, and
    the tokenizer is a vocab.json with merges.txt."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 1024} | ({"head_dim": 8} if kind.norms else {})
    config = {**kind.config, **sizes, **changes}
    hub.write(path, config, random_tensors(kind, config, dtype))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary |= {f"filler{number}": number for number in range(len(letters), 151643)}
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    added = {number: f"<|special{number}|>" for number in range(151643, kind.mask_id + 1)}
    added |= {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>", kind.mask_id: kind.mask}
    options = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "added_tokens_decoder": {str(number): {"content": token, **options} for number, token in added.items()},
        "auto_map": {"AutoTokenizer": ["tokenization.X", None]},
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": kind.tokenizer,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path

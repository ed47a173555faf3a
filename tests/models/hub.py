"""LLaDA checkpoints as the Hub has them, written from scratch, and LLaDA itself in plain PyTorch."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.models.flops import Shape

LLADA_8B = Shape(hidden=4096, intermediate=12288, layers=32, heads=32, kv_heads=32, vocabulary=126464)
CONFIG = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_size": 40,
    "eos_token_id": 37,
    "include_bias": False,
    "include_qkv_bias": False,
    "layer_norm_type": "rms",
    "mask_token_id": 38,
    "max_sequence_length": 64,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "model_type": "llada",
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "pad_token_id": 37,
    "precision": "amp_bf16",
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_theta": 500000.0,
    "vocab_size": 40,
    "weight_tying": False,
}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint by its name on the Hub."""
    width, middle, rows = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    narrow = width // config["n_heads"] * config["n_kv_heads"]
    block = {"attn_norm": (width,), "ff_norm": (width,), "q_proj": (width, width), "attn_out": (width, width)}
    block |= {"k_proj": (narrow, width), "v_proj": (narrow, width)}
    block |= {"ff_proj": (middle, width), "up_proj": (middle, width), "ff_out": (width, middle)}
    names = {f"blocks.{n}.{name}": shape for n in range(config["n_layers"]) for name, shape in block.items()}
    names |= {"wte": (rows, width), "ln_f": (width,)}
    if not config["weight_tying"]:
        names["ff_out"] = (rows, width)
    return {f"model.transformer.{name}.weight": shape for name, shape in names.items()}


def random_tensors(config: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = config["d_model"] ** -0.5
    return {
        name: (torch.randn(shape, generator=generator) * scale + (1.0 if len(shape) == 1 else 0.0)).to(dtype)
        for name, shape in shapes(config).items()
    }


def write(path: Path, config: dict, tensors: dict[str, torch.Tensor], shards: int = 2) -> Path:
    """config.json, the shards and their index."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    files = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
    places = {name: files[index % shards] for index, name in enumerate(tensors)}
    for file in files:
        save_file({name: tensors[name] for name in tensors if places[name] == file}, path / file, {"format": "pt"})
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def logits(config: dict, tensors: dict[str, torch.Tensor], tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The published model, [n, T, V], in the type of the tensors; rotary embedding in fp32; `mask` is 0 on padding."""
    w = {name.removeprefix("model.transformer.").removesuffix(".weight"): value for name, value in tensors.items()}
    heads, length = config["n_heads"], tokens.shape[1]
    size = config["d_model"] // heads
    angle = torch.arange(length)[:, None] / config["rope_theta"] ** (torch.arange(0, size, 2) / size)
    sin, cos = torch.cat([angle.sin()] * 2, dim=1), torch.cat([angle.cos()] * 2, dim=1)

    def norm(x, weight):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(dim=-1, keepdim=True) + config["rms_norm_eps"])
        return weight * y.to(x.dtype)

    def split(x):
        return x.unflatten(-1, (-1, size)).transpose(1, 2)

    def rotated(x):
        first, second = x.float().chunk(2, dim=-1)
        return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)

    x = w["wte"][tokens]
    for n in range(config["n_layers"]):
        b = {name.removeprefix(f"blocks.{n}."): value for name, value in w.items() if name.startswith(f"blocks.{n}.")}
        h = norm(x, b["attn_norm"])
        q, k, v = rotated(split(h @ b["q_proj"].T)), rotated(split(h @ b["k_proj"].T)), split(h @ b["v_proj"].T)
        k, v = (part.repeat_interleave(heads // config["n_kv_heads"], dim=1) for part in (k, v))
        score = (q @ k.transpose(2, 3)).float() / size**0.5
        score = score.masked_fill(mask[:, None, None, :] == 0, -torch.inf)
        x = x + (score.softmax(dim=-1).to(x.dtype) @ v).transpose(1, 2).flatten(2) @ b["attn_out"].T
        h = norm(x, b["ff_norm"])
        x = x + (torch.nn.functional.silu(h @ b["ff_proj"].T) * (h @ b["up_proj"].T)) @ b["ff_out"].T
    result = norm(x, w["ln_f"]).float() @ w["wte" if config["weight_tying"] else "ff_out"].float().T
    result[..., config["mask_token_id"]] = -torch.inf
    return result


SPECIAL = {
    126080: "<|startoftext|>",
    126081: "<|endoftext|>",
    126336: "<|mdm_mask|>",
    126346: "<|start_header_id|>",
    126347: "<|end_header_id|>",
    126348: "<|eot_id|>",
}
"""LLaDA-8B's; its tokenizer ends here, its vocabulary at 126464."""
TEMPLATE = (
    "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
WIDE = {
    "embedding_size": 126464,
    "vocab_size": 126464,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "max_sequence_length": 1024,
    "d_model": 16,
    "mlp_hidden_size": 16,
    "n_layers": 1,
}
"""A small model of LLaDA's vocabulary."""


def write_chat(path: Path, dtype: torch.dtype = torch.bfloat16, **changes: object) -> Path:
    """A checkpoint of the configuration `WIDE` that can be spoken to: bytes are its tokens, most ids are fillers."""
    config = {**CONFIG, **WIDE, **changes}
    write(path, config, random_tensors(config, dtype))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    vocabulary |= {f"filler{index}": index for index in range(len(letters), 126349) if index not in SPECIAL}
    vocabulary |= {token: index for index, token in SPECIAL.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.save(str(path / "tokenizer.json"))
    named = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "auto_map": {"AutoTokenizer": ["x.X", None]}}
    settings = {**named, "chat_template": TEMPLATE, "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path

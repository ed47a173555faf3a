"""Makes `examples/tiny-llada`, the base of the run `smoke-chat`: a checkpoint in the layout of LLaDA-8B-Instruct.

    python -m examples.tiny_llada examples/tiny-llada

It has LLaDA's chat template and special tokens, byte-level BPE learnt from numbers, prompts and its LICENSE, and 60 k
random weights. It has learnt nothing but how frequent each token is: the first component of its last
hidden state is large wherever it is asked, and the head turns it into log-frequencies. The rest is small, and is what
training changes.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.tasks import countdown, gsm8k, math500, sudoku

SPECIAL = (
    *("<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
TEMPLATE = (
    "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
VOCABULARY = 600
CORPUS = (
    " ".join(map(str, range(2000))),
    (Path(__file__).parent.parent / "LICENSE").read_text(encoding="utf-8"),
    *(text for task in (countdown, gsm8k, math500, sudoku) for text in 20 * list(task.TEMPLATES.values())),
)
WIDTH, MIDDLE, LAYERS, HEADS, LENGTH = 32, 64, 2, 4, 2048
LARGE, SPREAD = 8.0, 0.4
"""First component of every embedding; standard deviation of the random part of the embeddings and of the head."""


def tokenizer() -> Tokenizer:
    """All bytes, frequent pieces of words, and the special tokens last."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens(list(SPECIAL))
    return made


def frequencies(made: Tokenizer) -> np.ndarray:
    """The share of each token in the corpus; one in a hundred ends the answer, and none of the others is impossible."""
    ids = [token for text in made.encode_batch(list(CORPUS)) for token in text.ids]
    counts = np.bincount(ids, minlength=made.get_vocab_size()) + 0.01
    counts[made.token_to_id("<|eot_id|>")] = counts.sum() / 99
    return counts / counts.sum()


def tensors(made: Tokenizer) -> dict[str, np.ndarray]:
    """Every weight by its name on the Hub."""
    rng, rows = np.random.default_rng(0), made.get_vocab_size()

    def normal(*shape: int, scale: float) -> np.ndarray:
        return rng.standard_normal(shape) * scale

    narrow = WIDTH**-0.5
    found = {
        "wte": normal(rows, WIDTH, scale=SPREAD),
        "ln_f": np.ones(WIDTH),
        "ff_out": normal(rows, WIDTH, scale=SPREAD),
    }
    for layer in range(LAYERS):
        block = {name: normal(WIDTH, WIDTH, scale=narrow) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        block |= {name: normal(MIDDLE, WIDTH, scale=narrow) for name in ("ff_proj", "up_proj")}
        block |= {
            "ff_out": normal(WIDTH, MIDDLE, scale=narrow / 4),
            "attn_norm": np.ones(WIDTH),
            "ff_norm": np.ones(WIDTH),
        }
        found |= {f"blocks.{layer}.{name}": value for name, value in block.items()}
    found["wte"][:, 0] = LARGE  # normalised, about the square root of the width
    found["ff_out"][:, 0] = np.log(frequencies(made)) / WIDTH**0.5
    return {f"model.transformer.{name}.weight": value.astype(np.float32) for name, value in found.items()}


def config(made: Tokenizer) -> dict[str, object]:
    """config.json as the Hub has it."""
    rows, eos = made.get_vocab_size(), made.token_to_id("<|endoftext|>")
    return {
        **{"architectures": ["LLaDAModelLM"], "model_type": "llada", "block_type": "llama", "block_group_size": 1},
        **{
            "activation_type": "silu",
            "layer_norm_type": "rms",
            "rms_norm_eps": 1e-5,
            "rope": True,
            "rope_theta": 500000.0,
        },
        **{"alibi": False, "include_bias": False, "include_qkv_bias": False, "weight_tying": False},
        **{"d_model": WIDTH, "mlp_hidden_size": MIDDLE, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": HEADS},
        **{"max_sequence_length": LENGTH, "embedding_size": rows, "vocab_size": rows},
        **{"mask_token_id": made.token_to_id("<|mdm_mask|>"), "eos_token_id": eos, "pad_token_id": eos},
    }


def write(path: Path) -> None:
    """The four files of the checkpoint."""
    path.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(path / "tokenizer.json"))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "chat_template": TEMPLATE}
    written = {"config.json": config(made), "tokenizer_config.json": special}
    for name, content in written.items():
        (path / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    save_file(tensors(made), path / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    write(Path(sys.argv[1]))

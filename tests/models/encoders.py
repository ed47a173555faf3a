"""Small masked language models of transformers with random weights, as directories of the Hub."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

LETTERS = "abc>?"
"""Those of the task `examples.words`."""
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DISTILBERT = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}
OWN: dict[str, dict[str, object]] = {
    "distilbert": DISTILBERT,
    "electra": {"embedding_size": 8},
    "esm": {"position_embedding_type": "rotary", "token_dropout": True},
    "esmc": {"num_key_value_heads": 2, "head_dim": 8},
    "eurobert": {"num_key_value_heads": 2, "head_dim": 8},
    "modernbert": {"num_hidden_layers": 4, "local_attention": 8},
}


def tokenizer(kind: str = "roberta") -> Tokenizer:
    """Letters, with the special tokens of BERT or of RoBERTa around a text."""
    bert = kind in ("bert", "distilbert", "electra", "modernbert")
    names = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} if bert else {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    mask, unknown = ("[MASK]", "[UNK]") if bert else ("<mask>", "<unk>")
    vocabulary = {**names, **{letter: 4 + number for number, letter in enumerate(LETTERS)}, mask: 4 + len(LETTERS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([*names, mask])
    first, last = ("[CLS]", "[SEP]") if bert else ("<s>", "</s>")
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, names[first]), (last, names[last])]
    )
    return made


def model(kind: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """Weights are large enough that posteriors differ between states."""
    letters = tokenizer(kind)
    ids = {"pad_token_id": letters.token_to_id("[PAD]" if letters.token_to_id("[PAD]") is not None else "<pad>")}
    ids |= {"bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None}
    sizes = {**({} if kind == "distilbert" else SMALL), **OWN.get(kind, {}), "max_position_embeddings": 32}
    rows = letters.get_vocab_size() + 2  # two rows are no token
    masked = {"mask_token_id": letters.get_vocab_size() - 1} if kind in ("esm", "esmc", "eurobert") else {}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind, **{"vocab_size": rows, **sizes, **ids, **masked, "initializer_range": 0.5, **changes}
    )
    for key in [key for key, value in vars(config).items() if "dropout" in key and isinstance(value, float)]:
        setattr(config, key, 0.0)
    return AutoModelForMaskedLM.from_config(config).eval()


def write(path: Path, kind: str, **changes: object) -> Path:
    """config.json, weights and tokenizer, written by transformers and tokenizers."""
    model(kind, **changes).save_pretrained(path)
    tokenizer(kind).save(str(path / "tokenizer.json"))
    return path

"""Convert published antibody language models, once, to plain files of transformers.

  python -m pipeline.stages.antibody_models             # sapiens-vh, the base of the antibody runs: 7 MB
  python -m pipeline.stages.antibody_models antiberty   # AntiBERTy, a judge: 97 MB

Both come inside a wheel of PyPI (MIT licence), which pip downloads without its dependencies: they are old and never
installed. The wheel must have the SHA-256 below. Its weights are a pickle: it is opened with `weights_only`, which runs
no code, and saved as safetensors with config.json, tokenizer.json and the wheel's licence under data/models/NAME.
Nothing else of the pipeline opens a pickle.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.stages.command_line import errors_on_one_line
from pipeline.storage.atomic_files import replacing

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
Pickled = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A model in a wheel.

    Attributes:
        package, sha256: the requirement on PyPI and the digest of its wheel.
        weights, licence: files in the wheel.
        vocabulary: the tokens by id; the first, or that of `start`, opens a sequence, `end` closes it.
        config: config.json.
        tensors: the pickle's content -> tensors under the names of transformers.
    """

    package: str
    sha256: str
    weights: str
    licence: str
    vocabulary: tuple[str, ...]
    start: str
    end: str
    unknown: str
    mask: str
    padding: str
    config: Mapping[str, object]
    tensors: Callable[[Pickled], dict[str, Tensor]]


SAPIENS = {
    "decoder.sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
    "decoder.sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
    "decoder.sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
    "decoder.sentence_encoder.layers": "roberta.encoder.layer",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.q_proj": "attention.self.query",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
    "decoder.lm_head": "lm_head",
}
"""Parts of the names of fairseq's RoBERTa, and those of transformers."""


def sapiens(content: Pickled) -> dict[str, Tensor]:
    """fairseq has no token types, so theirs are 0; the head's matrix is that of the embeddings."""
    tensors = {}
    for name, value in content["model"].items():
        for theirs, ours in SAPIENS.items():
            name = name.replace(theirs, ours)  # noqa: PLW2901
        tensors[name] = value
    del tensors["lm_head.weight"]
    hidden = tensors["roberta.embeddings.LayerNorm.weight"]
    return {**tensors, "roberta.embeddings.token_type_embeddings.weight": torch.zeros(1, len(hidden))}


def antiberty(content: Pickled) -> dict[str, Tensor]:
    """Without the pooler and the heads for species, chain and grafting."""
    left_out = ("bert.pooler", "bert.embeddings.position_ids", "cls.species", "cls.chain", "cls.graft")
    return {name: value for name, value in content.items() if not name.startswith(left_out)}


SOURCES = {
    "sapiens-vh": Source(
        package="sapiens==1.0.5",
        sha256="af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b",
        weights="sapiens/models/v1/checkpoint_vh.pt",
        licence="sapiens-1.0.5.dist-info/LICENSE",
        vocabulary=("<s>", "<pad>", "</s>", "<unk>", *RESIDUES, "<mask>"),
        start="<s>", end="</s>", unknown="<unk>", mask="<mask>", padding="<pad>",
        config={
            "model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "vocab_size": 25, "hidden_size": 128,
            "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 256, "hidden_act": "gelu",
            "max_position_embeddings": 146, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "bos_token_id": 0,
            "pad_token_id": 1, "eos_token_id": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "tie_word_embeddings": True,
        },
        tensors=sapiens,
    ),
    "antiberty": Source(
        package="antiberty==0.1.3",
        sha256="30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
        weights="antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin",
        licence="antiberty-0.1.3.dist-info/LICENSE.MD",
        vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *RESIDUES),
        start="[CLS]", end="[SEP]", unknown="[UNK]", mask="[MASK]", padding="[PAD]",
        config={
            "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 25, "hidden_size": 512,
            "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048, "hidden_act": "gelu",
            "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "tie_word_embeddings": False,
        },
        tensors=antiberty,
    ),
}  # fmt: skip


def convert(source: Source, wheel: Path, out: Path) -> None:
    """Write the model of a wheel as a directory that `from_pretrained` opens.

    Raises:
        PipelineError: if the file is not the wheel that is known.
    """
    found = wheel.read_bytes()
    if (digest := hashlib.sha256(found).hexdigest()) != source.sha256:
        raise PipelineError(f"{wheel}: has the SHA-256 {digest}, not {source.sha256} of {source.package}")
    with zipfile.ZipFile(io.BytesIO(found)) as files:
        pickled, licence = io.BytesIO(files.read(source.weights)), files.read(source.licence)
    with torch.serialization.safe_globals([argparse.Namespace]):  # fairseq's options, which hold no code
        tensors = source.tensors(torch.load(pickled, weights_only=True, map_location="cpu"))
    with replacing(out) as temporary:
        temporary.mkdir()
        tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
        save_file(tensors, temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(source.config, indent=2), encoding="utf-8")
        (temporary / "tokenizer.json").write_text(tokenizer_of(source).to_str(pretty=True), encoding="utf-8")
        (temporary / "LICENSE").write_bytes(licence)


def tokenizer_of(source: Source) -> Tokenizer:
    """One token for each residue, between the tokens for start and end."""
    ids = {token: number for number, token in enumerate(source.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=source.unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([token for token in source.vocabulary if token not in RESIDUES])
    frame = [(token, ids[token]) for token in (source.start, source.end)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{source.start} $A {source.end}", special_tokens=frame)
    return tokenizer


def download(package: str, folder: Path) -> Path:
    """The wheel of a package, without what it depends on; pip's own configuration says from where."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*command, package], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise PipelineError(f"pip cannot download {package} ({reason}): download its wheel and give --wheel")
    return wheels[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="sapiens-vh", choices=SOURCES)
    parser.add_argument("--wheel", type=Path, help="the wheel, if it is here already")
    parser.add_argument("--out", type=Path, default=Path("data/models"), help="directory to write NAME into")
    with errors_on_one_line():
        args = parser.parse_args()
        source, out = SOURCES[args.name], args.out / args.name
        with tempfile.TemporaryDirectory() as folder:
            convert(source, args.wheel or download(source.package, Path(folder)), out)
        print(f"{out}: converted from {source.package}")


if __name__ == "__main__":
    main()

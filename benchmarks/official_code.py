"""Compare the logits of an exported policy in the published modeling code of its family with those of this project.

    python -m benchmarks.official_code exported/ official/ --python venv4/bin/python

`official/` holds that code as it is in the repository of the family's checkpoint on the Hub, such as modeling_llada.py
and configuration_llada.py. It runs in the environment of `--python` alone, which has torch, safetensors and the
transformers that it wants. Both open the export in float32 and get the same random tokens, without padding. Printed is
the largest difference of a logit that this project does not exclude; the exit status is 1 if it exceeds `--most`.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CASE = "case.safetensors"
"""Tokens and what is wanted of them; `seen` for a family of blocks, `shifted` for one that predicts the next token."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, help="directory that pipeline.stages.export wrote, with merged weights")
    parser.add_argument("official", type=Path, help="directory with the published code, which will be run")
    parser.add_argument("--python", required=True, help="Python of the environment that runs the published code")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--most", type=float, default=1e-5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for file in args.exported.iterdir():
            (Path(folder) / file.name).symlink_to(file.resolve())
        for file in args.official.glob("*.py"):
            shutil.copyfile(file, Path(folder) / file.name)
        save_file(case(args.exported, args.rows, args.length), Path(folder) / CASE)
        command = [args.python, __file__, "--inside", folder]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return done.returncode
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{found['class']}, transformers {found['transformers']}: largest difference {found['difference']:.1e}")
    return int(not found["difference"] <= args.most)


def case(exported: Path, rows: int, length: int) -> dict[str, Tensor]:
    """Random tokens, every third one masked, and the logits that this project gives them."""
    from pipeline.models import FAMILIES  # noqa: PLC0415  (this project is not in the other environment)
    from pipeline.models.base import blocks_of  # noqa: PLC0415
    from pipeline.models.family import family_of  # noqa: PLC0415
    from pipeline.models.policy_directory import load_policy  # noqa: PLC0415
    from pipeline.plugins import load_model  # noqa: PLC0415

    kind = json.loads((exported / "config.json").read_text(encoding="utf-8"))["model_type"]
    family = next(family for family in map(family_of, FAMILIES) if family and family.kind == kind)
    model, tokenizer, mask = load_policy(exported, load_model(family.name))
    tokens = torch.randint(tokenizer.get_vocab_size(), (rows, length), generator=torch.Generator().manual_seed(0))
    tokens[:, ::3] = mask
    with torch.no_grad():
        found = {"tokens": tokens, "logits": model.float()(input_ids=tokens).logits}
    if family.shifted:
        found["shifted"] = torch.tensor(True)
    if (size := blocks_of(model)) is not None:
        block = torch.arange(length) // size
        found["seen"] = block[None] <= block[:, None]
    return found


def inside(folder: Path) -> None:
    """In the other environment: the last line of the output is a JSON object."""
    import transformers  # noqa: PLC0415  (another version than this project's)
    from transformers.dynamic_module_utils import get_class_from_dynamic_module  # noqa: PLC0415

    replace_flash_norm()
    (name,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    module = next(file.stem for file in folder.glob("modeling_*.py") if f"class {name}(" in file.read_text("utf-8"))
    made: Any = get_class_from_dynamic_module(f"{module}.{name}", str(folder))
    model = made.from_pretrained(folder, torch_dtype=torch.float32).eval()
    wanted = load_file(folder / CASE)
    options = {"attention_mask": wanted["seen"][None, None]} if "seen" in wanted else {}
    with torch.no_grad():
        logits = model(input_ids=wanted["tokens"], **options).logits
    if "shifted" in wanted:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    known = wanted["logits"].isfinite()
    difference = (logits - wanted["logits"])[known].abs().max().item()
    print(json.dumps({"class": name, "transformers": transformers.__version__, "difference": difference}))


def replace_flash_norm() -> None:
    """SDAR's code imports its RMS norm from flash-attn, which needs a GPU; where it is missing, PyTorch's is used."""
    if importlib.util.find_spec("flash_attn"):
        return
    names = ("flash_attn", "flash_attn.ops", "flash_attn.ops.triton", "flash_attn.ops.triton.layer_norm")
    for name in names:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)

    def norm(x: Tensor, weight: Tensor, bias: None, eps: float) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)

    sys.modules[names[-1]].rms_norm_fn = norm  # type: ignore[attr-defined]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))

"""Write a policy as a model of its own, with a card, for others to open, serve and cite.

  python -m pipeline.stages.export data/runs/mine/round_010/policy exported/ [--push NAME]

The directory gets the weights under the names of the family's checkpoints, with adapters merged (with `--adapters` the
adapters alone); config.json as the family's published code reads it; the tokenizer and its chat template;
generation_config.json; and README.md, the card. No code is copied: `auto_map` in config.json points to the code in the
base's repository. The card's numbers come from the files of the run, which it names with their digests and the commit
that made them. docs/llada.md says which programs open the result.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pipeline.errors import PipelineError
from pipeline.models.adapters import PREFIX, are_in
from pipeline.models.adapters import WEIGHTS as ADAPTER_WEIGHTS
from pipeline.models.family import family_of
from pipeline.models.policy_directory import BASE_MODEL, load_policy, save_policy, weight_files
from pipeline.models.transformer import hub_name
from pipeline.plugins import load_model
from pipeline.report.card import Exported, model_card, settings_of
from pipeline.stages.command_line import errors_on_one_line
from pipeline.storage.atomic_files import read_tensors, replacing
from pipeline.storage.fingerprint import fingerprint_of
from pipeline.storage.model_files import ADAPTER_CONFIG, CONFIG, read_optional

GENERATION = "generation_config.json"
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")


def run(args: argparse.Namespace) -> None:
    policy, out = args.policy, args.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PipelineError(f"{out} exists: name a new directory, or remove it")
    if not policy.is_dir():
        raise PipelineError(f"{policy} is not a policy directory")
    base = base_model(policy, args.base)
    name = args.model or settings_of(policy)["model"].get("name", "llada")
    if args.push:
        check_push(args.push, base)
    with replacing(out) as temporary:
        if args.adapters:
            write_adapters(policy, temporary, name, base)
        else:
            write_merged(policy, temporary, name, base)
        exported = Exported(
            policy, args.push or out.name, base, args.license, args.adapters, fingerprint_of(*weight_files(policy))
        )
        (temporary / "README.md").write_text(model_card(exported), encoding="utf-8")
        (temporary / BASE_MODEL).unlink(missing_ok=True)  # the card says it
    print(f"exported: {out}")
    if args.push:
        print(f"pushed: {push(out, args.push, private=not args.public)}")


def base_model(policy: Path, name: str | None) -> dict[str, Any]:
    """What rule `base` noted of the checkpoint that it imported; `name` takes the place of its name."""
    noted = read_optional(policy / BASE_MODEL)
    if name and name != noted.get("name"):
        noted = {**noted, "name": name, "revision": None}
    if not (noted.get("name") or noted.get("auto_map")):
        return {}
    return {"name": None, "revision": None, "auto_map": {}, **noted}


def write_merged(policy: Path, out: Path, model: str, base: dict[str, Any]) -> None:
    """An ordinary checkpoint: W + (α/r) B A in the place of W, in the type of W."""
    plugin = load_model(model)
    module, tokenizer, _ = load_policy(policy, plugin)
    save_policy(out, module, tokenizer, plugin, policy)
    family, config = family_of(model), read_optional(out / CONFIG)
    if family:
        config = family.exported(config)
    if found := qualified(base):
        config["auto_map"] = found
    _write(out / CONFIG, config)
    if not (out / GENERATION).is_file():
        _write(out / GENERATION, {key: config[key] for key in TOKENS if config.get(key) is not None})


def qualified(base: dict[str, Any]) -> dict[str, str]:
    """Auto class -> "org/name--module.Class", which transformers reads from the base's repository."""
    return {
        key: place if "--" in place else f"{base['name']}--{place}"
        for key, place in base.get("auto_map", {}).items()
        if "--" in place or base["name"]
    }


def write_adapters(policy: Path, out: Path, model: str, base: dict[str, Any]) -> None:
    """The adapters in peft's layout, with the layers' names in the base's own code and the base's name on the Hub."""
    if not are_in(policy):
        raise PipelineError(f"--adapters: '{policy}' holds all weights, no adapters")
    if not base.get("name"):
        raise PipelineError("--adapters: the run trained its base itself: export without, or name it by --base")
    family = family_of(model)
    out.mkdir()
    tensors, metadata = read_tensors(policy / ADAPTER_WEIGHTS)
    renamed = {}
    layers = set()
    for name, value in tensors.items():
        layer, dot, matrix = name.removeprefix(PREFIX).partition(".lora_")
        layer = hub_name(family, f"{layer}.weight").removesuffix(".weight") if family else layer
        layers.add(layer)
        renamed[f"{PREFIX}{layer}{dot}{matrix}"] = value.contiguous()
    save_file(renamed, out / ADAPTER_WEIGHTS, metadata)
    config = read_optional(policy / ADAPTER_CONFIG)
    config |= {"base_model_name_or_path": base["name"], "revision": base["revision"], "target_modules": sorted(layers)}
    _write(out / ADAPTER_CONFIG, config)


def check_push(name: str, base: dict[str, Any]) -> None:
    """PipelineError for a model whose code would not be found by others."""
    local = [place for place in qualified(base).values() if Path(place.split("--", maxsplit=1)[0]).exists()]
    if local:
        raise PipelineError(
            f"--push {name}: the base's code lies in a directory, {local[0]}: name its repository by --base"
        )


def push(folder: Path, name: str, *, private: bool) -> str:
    """Upload a directory to the Hub, into a repository that is made if there is none; its address."""
    from huggingface_hub import HfApi  # noqa: PLC0415  (only to push)

    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Discrete Adjoint Matching"))
    except Exception as error:  # whatever the network and the Hub raise
        reason = " ".join(str(error).split())[:300]
        raise PipelineError(f"--push {name}: {reason}; {folder} is complete and can be uploaded later") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="policy directory of a round")
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--adapters", action="store_true", help="the adapters alone, for the base as it is on the Hub")
    parser.add_argument("--base", metavar="NAME", help="the base's repository, if the run had it from a directory")
    parser.add_argument("--model", metavar="NAME", help="model.name, if the run's rollouts are gone (default: llada)")
    parser.add_argument("--license", metavar="ID", help="the base's license for the card, as the Hub spells it: mit")
    parser.add_argument("--push", metavar="NAME", help="repository on the Hub to upload to, org/name")
    parser.add_argument("--public", action="store_true", help="a repository that --push makes is private without this")
    with errors_on_one_line():
        run(parser.parse_args())

"""The card of an exported policy, README.md with the Hub's metadata: how it was made, results, and where each number is
from."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.plugins import load_task, resolve_task
from pipeline.report.tables import markdown
from pipeline.storage import parquet
from pipeline.storage.atomic_files import read_json, sha256_of
from pipeline.storage.provenance import git_revision

SECTIONS = {"rollouts": ("task", "model", "rollout", "seed"), "targets": ("algorithm",)}
"""The sections of the settings that the files in these folders of a round hold."""
ROW = ("split", "sampler", "length", "tokens_per_step", "block_length", "cache", "prefill")
PAPER = "https://arxiv.org/abs/2602.07132"


@dataclass(frozen=True)
class Exported:
    """A policy to describe; `base` is the checkpoint that it started from (name, revision), or empty."""

    policy: Path
    name: str
    base: Mapping[str, Any]
    license: str | None
    adapters: bool
    fingerprint: str

    @property
    def number(self) -> int | None:
        """Its round; None if the directory is not that of a run."""
        digits = self.policy.absolute().parent.name.removeprefix("round_")
        return int(digits) if self.policy.name == "policy" and digits.isdigit() else None

    @property
    def run(self) -> Path:
        return self.policy.absolute().parent.parent


def settings_of(policy: Path) -> dict[str, Any]:
    """The sections in `SECTIONS` of a policy's run, from the run's newest buffers; {} for each that is gone."""
    found: dict[str, Any] = {name: {} for names in SECTIONS.values() for name in names}
    run = policy.absolute().parent.parent
    for folder, names in SECTIONS.items():
        for file in sorted(run.glob(f"round_*/{folder}/*.parquet")):
            made = parquet.provenance_of(file)
            found |= {name: made["settings"][name] for name in names} | {f"{folder}_git": made["git"]}
    return found


def model_card(exported: Exported) -> str:
    """The text of README.md."""
    settings = settings_of(exported.policy)
    parts = [
        metadata(exported, settings),
        f"# {exported.name.rpartition('/')[2]}",
        history(exported),
        "## Training",
        markdown([["", ""], *training(exported, settings)]),
    ]
    number = exported.number
    if number is not None and (rows := results(exported, number)):
        parts += ["## Results", "Mean ± standard error over the items.", markdown(rows)]
    parts += ["## Where the numbers are from", markdown([["file", "digest", "made by"], *sources(exported, settings)])]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def metadata(exported: Exported, settings: Mapping[str, Any]) -> str:
    """The block of YAML that the Hub reads; JSON texts are YAML."""
    entries: dict[str, object] = {"library_name": "peft" if exported.adapters else "transformers"}
    if name := exported.base.get("name"):
        entries |= {"base_model": name, "base_model_relation": "adapter" if exported.adapters else "finetune"}
    if exported.license:
        entries["license"] = exported.license
    data = settings["task"].get("data") or {}
    if hubs := [data[key] for key in ("hub", "test_hub") if data.get(key)]:
        entries["datasets"] = hubs
    entries["tags"] = ["masked-diffusion", "discrete-adjoint-matching"]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---"])


def history(exported: Exported) -> str:
    """Where the policy comes from, in a sentence."""
    base, revision = exported.base.get("name"), exported.base.get("revision")
    started = "a base that the run trained itself"
    if base:
        started = f"`{base}`, revision {f'`{revision}`' if revision else 'unknown'}"
    known = exported.number is not None
    place = f"the policy after round {exported.number} of the run `{exported.run.name}`, " if known else ""
    method = f"by the workflow of [Discrete Adjoint Matching]({PAPER})"
    return f"A masked-diffusion language model: {place}fine-tuned {method} from {started}."


def training(exported: Exported, settings: Mapping[str, Any]) -> list[list[str]]:
    """Task, data, reward, method and the KL to the base."""
    task, algorithm, rollout = settings["task"], settings["algorithm"], settings["rollout"]
    rows = [
        ["task", str(task["name"]) if task else "unknown: the run's buffers are gone"],
        ["data", _json(task.get("data") or _generated(task)) if task else ""],
        ["reward", reward(task) if task else ""],
        ["method", _json(algorithm) if algorithm else ""],
        ["α, weight of the KL to the base", f"{algorithm['alpha']:g}" if algorithm else ""],
        ["rollouts of a round", f"{rollout['prompts']} prompts × {rollout['completions']}" if rollout else ""],
        ["seed", str(settings["seed"]) if task else ""],
        *kl(exported),
    ]
    return [row for row in rows if row[1]]


def reward(task: Mapping[str, Any]) -> str:
    """The function that scores answers, and the first paragraph of what it says of itself."""
    try:
        function = resolve_task(load_task(task["name"]).settings.model_validate(task)).score_function
    except (PipelineError, ValueError):  # a user's module that is not here
        return f"that of the task {task['name']}"
    said = (inspect.getdoc(function) or "").split("\n\n", maxsplit=1)[0]
    return f"{function.__module__}.{function.__qualname__}: {' '.join(said.split()).replace('`', '')}"


def kl(exported: Exported) -> list[list[str]]:
    """KL(policy ‖ base) and reward as rollouts estimate them: the next round's are this policy's, if there is one."""
    if exported.number is None:
        return []
    next_, own = (exported.run / f"round_{exported.number + k:03d}" / "adjoint.json" for k in (1, 0))
    whose = "" if next_.is_file() else " of the policy of the round before"
    if not (file := next_ if next_.is_file() else own).is_file():
        return []
    found = read_json(file, "kl_to_base", "kl_to_base_se", "reward_mean", "reward_se")
    return [
        [f"KL to the base{whose}, nats", f"{_pm(found, 'kl_to_base')}, from the rollouts of {file.parent.name}"],
        [f"reward of rollouts{whose}", f"{found['reward_mean']:.4g} ± {found['reward_se']:.2g}"],
    ]


def results(exported: Exported, number: int) -> list[list[str]]:
    """Every row of results of the base and of this round, and the exact KL of enumerated tasks.

    Raises:
        PipelineError: if the round's evaluation is of other weights.
    """
    lines: list[list[str]] = []
    names: list[str] = []
    for round_ in sorted({0, number}):
        file = exported.run / f"round_{round_:03d}" / "evaluation.json"
        if not file.is_file():
            continue
        content = read_json(file, "rows", "exact")
        title = str(round_) if round_ else "0, the base"
        for row in content["rows"]:
            metrics = row["metrics"]
            if round_ == number and row["weights"] != exported.fingerprint[:16]:
                raise PipelineError(f"{file} is of other weights than '{exported.policy}': run the workflow again")
            names = names or [name for name in metrics if f"{name}_se" in metrics]
            decoded = [str(row.get(key) or "") for key in ROW]
            lines.append([title, *decoded, str(metrics["n"]), *(_pm(metrics, name) for name in names)])
        for name, value in content["exact"].items():
            lines.append([title, f"exact {name}: {value:.3g}", *[""] * (len(ROW) + len(names))])
    return [["round", *ROW, "n", *names], *lines] if lines else []


def sources(exported: Exported, settings: Mapping[str, Any]) -> list[list[str]]:
    """Each file that the card read, with its digest, and the commit or the packages that made it; and the weights."""
    lines = [["weights (fingerprint)", exported.fingerprint[:16], f"exported at commit {git_revision()}"]]
    if exported.number is None:
        return lines
    for folder, what in (("rollouts", "task, data, rollouts"), ("targets", "method and α")):
        if git := settings.get(f"{folder}_git"):
            lines.append([f"{folder}/ of the newest round: {what}", "", f"commit {git}"])
    here = f"round_{exported.number:03d}"
    later = exported.run / f"round_{exported.number + 1:03d}" / "adjoint.json"
    names = [f"{later.parent.name if later.is_file() else here}/adjoint.json"]
    for name in dict.fromkeys([*names, "round_000/evaluation.json", f"{here}/evaluation.json"]):
        file = exported.run / name
        if file.is_file():
            rows = read_json(file).get("rows", [])
            versions = [f"{package} {version}" for package, version in rows[0]["versions"].items()] if rows else []
            hardware = [rows[0]["hardware"]] if rows else []
            lines.append([f"{exported.run.name}/{name}", sha256_of(file)[:16], ", ".join([*versions, *hardware])])
    return lines


def _generated(task: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in task.items() if key not in ("name", "profile", "template", "data")}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _pm(found: Mapping[str, Any], name: str) -> str:
    return f"{found[name]:.4g} ± {found.get(f'{name}_se') or 0:.2g}"

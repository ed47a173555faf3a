"""The whole workflow on small checkpoints with the real vocabulary and a chat template, for every chat task."""

import json
from pathlib import Path

import pytest

from pipeline.storage import parquet
from tests.conftest import Workflow
from tests.models import families, hub

SOLUTION = "1234341221434321"
ROWS = {
    "sudoku": [{"Puzzle": SOLUTION[:k] + "0000" + SOLUTION[k + 4 :], "Solution": SOLUTION} for k in range(5)],
    "countdown": [{"nums": [k + 1, k + 2, 3], "target": 2 * k + 6} for k in range(5)],
    "gsm8k": [{"question": "How many" + " more" * k + "?", "answer": f"Some. #### {k}"} for k in range(5)],
    "math500": [{"problem": "What is" + " about" * k + "?", "answer": rf"\frac{{{k}}}{{3}}"} for k in range(5)],
}


def small(task: str, directory: Path, checkpoint: Path) -> dict:
    """LoRA on bfloat16 weights, blocks of 8 tokens; of gsm8k two rounds in two shards, of the others one."""
    (directory / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    section = {"name": task, "template": "chat", "answer_length": 16, "validation_items": 1}
    if task == "sudoku":
        section |= {"base_items": 4}
    rounds, shards = (2, 2) if task == "gsm8k" else (1, 1)
    return {
        "rounds": rounds,
        "task": {**section, "data": {"path": f"{task}.jsonl", "test_items": 2}},
        "model": {"dtype": "bfloat16"},
        "base": {"path": str(checkpoint)},
        "rollout": {"prompts": 2, "completions": 2, "block_length": 8, "temperature": 0.9, "shards": shards},
        "algorithm": {"weights": "direct"},
        "train": {"updates": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "adapter": {"rank": 4},
                  "gradient_checkpointing": True},
        "evaluate": {"lengths": [16], "tokens_per_step": 2, "block_length": 8, "prefill": "<reasoning>",
                     "samplers": ["greedy"], "every": rounds},
    }  # fmt: skip


def run_all(workflow: Workflow, runs: dict) -> dict[str, Path]:
    """All in one Snakemake; the directories of the runs."""
    workflow.params = {"default_run": "gsm8k", "runs": runs, "suites": {"chat": {"runs": list(runs)}},
                       "hardware": {"threads": 1}}  # fmt: skip
    workflow("chat")
    found = {task: workflow.directory / "data" / "runs" / task for task in runs}
    for task, directory in found.items():
        assert (directory / f"round_{runs[task]['rounds']:03d}" / "policy" / "adapter_model.safetensors").exists()
    return found


def evaluated(run: dict) -> list[tuple[int, str, int]]:
    """(round, split, length) of each of its results."""
    lengths, rounds = run["evaluate"]["lengths"], (0, run["rounds"])
    return [(k, split, length) for k in rounds for split in ("test", "validation") for length in lengths]


def test_every_chat_task(workflow: Workflow):
    """With LLaDA; of gsm8k with answers of 16 and 24 tokens."""
    checkpoint = hub.write_chat(workflow.directory / "checkpoint")
    runs = {task: small(task, workflow.directory, checkpoint) for task in ROWS}
    runs["gsm8k"]["evaluate"]["lengths"] = [16, 24]
    for task, directory in run_all(workflow, runs).items():
        metrics = json.loads((directory / "metrics.json").read_text())
        results = [(row["round"], row["split"], row["length"]) for row in metrics["results"]]
        assert results == evaluated(runs[task])
        first = metrics["results"][0]
        assert (first["template"], first["profile"], first["prefill"]) == ("chat", "strict", "<reasoning>")
        assert metrics["selected"]["round"] in (0, runs[task]["rounds"])
        shards = sorted((directory / "round_001" / "rollouts").glob("*.parquet"))
        rollouts = parquet.read(shards, parquet.ROLLOUTS, may_be_empty=True)
        lengths = set(parquet.lengths(rollouts, "prompt_tokens"))
        assert len(rollouts) == 4 and len(lengths) == (2 if task in ("gsm8k", "math500") else 1)
        assert ("By number of answer tokens" in (directory / "report.html").read_text()) == (task == "gsm8k")


@pytest.mark.parametrize("kind", [families.DREAM, families.SDAR], ids=["dream", "sdar"])
def test_every_chat_task_with_other_families(kind, workflow: Workflow):
    """SDAR in blocks of 8 that its config.json does not name, with the exact cache."""
    checkpoint = families.write_chat(workflow.directory / "checkpoint", kind)
    model = {"dtype": "bfloat16", "name": "sdar", "block_length": 8} if kind.blocks else {"name": "dream"}
    runs = {task: small(task, workflow.directory, checkpoint) for task in ROWS}
    for run in runs.values():
        run["model"] |= model
        run["rollout"] |= {"cache": "block"} if kind.blocks else {}
    for task, directory in run_all(workflow, runs).items():
        metrics = json.loads((directory / "metrics.json").read_text())
        results = [(row["round"], row["split"], row["length"]) for row in metrics["results"]]
        assert results == evaluated(runs[task])
        shards = sorted((directory / "round_001" / "rollouts").glob("*.parquet"))
        rollouts = parquet.read(shards, parquet.ROLLOUTS, may_be_empty=True)
        tokens = parquet.matrix(rollouts, "tokens")
        assert tokens.shape == (4, 16) and (tokens <= kind.mask_id).all() and (tokens != kind.mask_id).all()

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
    """Two rounds of LoRA on bfloat16 weights, blocks of 8 tokens, answers of 16 and 24."""
    (directory / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    section = {"name": task, "template": "chat", "answer_length": 16, "validation_items": 1}
    if task == "sudoku":
        section |= {"base_items": 4}
    return {
        "rounds": 2,
        "task": {**section, "data": {"path": f"{task}.jsonl", "test_items": 2}},
        "model": {"dtype": "bfloat16"},
        "base": {"path": str(checkpoint)},
        "rollout": {"prompts": 2, "completions": 2, "block_length": 8, "temperature": 0.9},
        "train": {"updates": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "adapter": {"rank": 4},
                  "gradient_checkpointing": True},
        "evaluate": {"lengths": [16, 24], "tokens_per_step": 2, "block_length": 8, "prefill": "<reasoning>",
                     "samplers": ["greedy"], "every": 2},
    }  # fmt: skip


@pytest.mark.parametrize("task", ROWS)
def test_every_chat_task(task, workflow: Workflow):
    run = small(task, workflow.directory, hub.write_chat(workflow.directory / "checkpoint"))
    workflow.params = {"default_run": "small", "runs": {"small": run}, "hardware": {"threads": 1}}
    workflow()
    metrics = workflow.metrics()
    assert [(row["round"], row["split"], row["length"]) for row in metrics["results"]] == [
        (k, split, length) for k in (0, 2) for split in ("test", "validation") for length in (16, 24)
    ]
    first = metrics["results"][0]
    assert (first["template"], first["profile"], first["prefill"]) == ("chat", "strict", "<reasoning>")
    assert metrics["selected"]["round"] in (0, 2)
    shards = sorted((workflow.run_directory / "round_001" / "rollouts").glob("*.parquet"))
    rollouts = parquet.read(shards, parquet.ROLLOUTS, may_be_empty=True)
    lengths = set(parquet.lengths(rollouts, "prompt_tokens"))
    assert len(rollouts) == 4 and len(lengths) == (2 if task in ("gsm8k", "math500") else 1)
    assert (workflow.run_directory / "round_002" / "policy" / "adapter_model.safetensors").exists()
    assert "By number of answer tokens" in (workflow.run_directory / "report.html").read_text()


@pytest.mark.parametrize("kind", [families.DREAM, families.SDAR], ids=["dream", "sdar"])
def test_every_chat_task_with_other_families(kind, workflow: Workflow):
    """All in one Snakemake; SDAR in blocks of 8 that its config.json does not name, with the exact cache."""
    checkpoint = families.write_chat(workflow.directory / "checkpoint", kind)
    model = {"dtype": "bfloat16", "name": "sdar", "block_length": 8} if kind.blocks else {"name": "dream"}
    runs = {task: small(task, workflow.directory, checkpoint) for task in ROWS}
    for run in runs.values():
        run["model"] |= model
        run["rollout"] |= {"cache": "block"} if kind.blocks else {}
        run["evaluate"] |= {"lengths": [16]}
    workflow.params = {"default_run": "gsm8k", "runs": runs, "suites": {"chat": {"runs": list(runs)}},
                       "hardware": {"threads": 1}}  # fmt: skip
    workflow("chat")
    for task in runs:
        directory = workflow.directory / "data" / "runs" / task
        metrics = json.loads((directory / "metrics.json").read_text())
        assert [(row["round"], row["split"]) for row in metrics["results"]] == [
            (k, split) for k in (0, 2) for split in ("test", "validation")
        ]
        shards = sorted((directory / "round_001" / "rollouts").glob("*.parquet"))
        rollouts = parquet.read(shards, parquet.ROLLOUTS, may_be_empty=True)
        tokens = parquet.matrix(rollouts, "tokens")
        assert tokens.shape == (4, 16) and (tokens <= kind.mask_id).all() and (tokens != kind.mask_id).all()
        assert (directory / "round_002" / "policy" / "adapter_model.safetensors").exists()

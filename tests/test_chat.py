"""The whole workflow on small checkpoints with the real vocabularies and a chat template.

Every chat task with LLaDA and with one other family: what a task makes of an item does not depend on the model.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import parquet
from tests.models import families, hub
from tests.small_workflow import Workflow

SOLUTION = "1234341221434321"
ROWS = {
    "sudoku": [{"Puzzle": SOLUTION[:k] + "0000" + SOLUTION[k + 4 :], "Solution": SOLUTION} for k in range(5)],
    "countdown": [{"nums": [k + 1, k + 2, 3], "target": 2 * k + 6} for k in range(5)],
    "gsm8k": [{"question": "How many" + " more" * k + "?", "answer": f"Some. #### {k}"} for k in range(5)],
    "math500": [{"problem": "What is" + " about" * k + "?", "answer": rf"\frac{{{k}}}{{3}}"} for k in range(5)],
}
TWO_LENGTHS = ("gsm8k", "math500")
"""Tasks whose prompts differ in length."""
FAMILIES: dict[str, dict[str, Any]] = {
    "llada": {"model": {}},
    "dream": {"model": {"name": "dream"}},
    "sdar": {"model": {"name": "sdar", "block_length": 8}, "rollout": {"cache": "block"}},
}
"""SDAR in blocks of 8 that its config.json does not name, with the exact cache."""
MASKS = {"llada": hub.WIDE["mask_token_id"], "dream": families.DREAM.mask_id, "sdar": families.SDAR.mask_id}
LAST_TOKENS = {**MASKS, "llada": max(hub.SPECIAL)}
"""The vocabularies of the models are longer."""
NAMES = [*(f"llada-{task}" for task in ROWS), "dream-gsm8k", "dream-countdown", "sdar-math500", "sdar-sudoku"]
TWO_ROUNDS = ("llada-gsm8k", "dream-gsm8k", "sdar-math500")


def small(name: str, directory: Path) -> dict[str, Any]:
    """LoRA on bfloat16 weights, blocks of 8 tokens; one round, or two; gsm8k of LLaDA in two shards and two lengths."""
    family, task = name.split("-")
    section = {"name": task, "template": "chat", "answer_length": 16, "validation_items": 1}
    if task == "sudoku":
        section |= {"base_items": 4}
    rounds, shards = 2 if name in TWO_ROUNDS else 1, 2 if name == "llada-gsm8k" else 1
    rollout = {"prompts": 2, "completions": 2, "block_length": 8, "temperature": 0.9, "shards": shards}
    return {
        "rounds": rounds,
        "task": {**section, "data": {"path": f"{task}.jsonl", "test_items": 2}},
        "model": {"dtype": "bfloat16", **FAMILIES[family]["model"]},
        "base": {"path": str(directory / family)},
        "rollout": {**rollout, **FAMILIES[family].get("rollout", {})},
        "algorithm": {"weights": "direct"},
        "train": {"updates": 2, "batch_size": 4, "gradient_accumulation_steps": 2, "adapter": {"rank": 4},
                  "gradient_checkpointing": True},
        "evaluate": {"lengths": [16, 24] if name == "llada-gsm8k" else [16], "tokens_per_step": 2, "block_length": 8,
                     "prefill": "<reasoning>", "samplers": ["greedy"], "every": rounds},
    }  # fmt: skip


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """All runs in one Snakemake."""
    workflow = Workflow(tmp_path_factory.mktemp("chat"))
    for task, rows in ROWS.items():
        (workflow.directory / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hub.write_chat(workflow.directory / "llada")
    families.write_chat(workflow.directory / "dream", families.DREAM)
    families.write_chat(workflow.directory / "sdar", families.SDAR)
    runs = {name: small(name, workflow.directory) for name in NAMES}
    workflow.params = {"default_run": "llada-gsm8k", "runs": runs, "suites": {"chat": {"runs": list(runs)}},
                       "hardware": {"threads": 1}}  # fmt: skip
    workflow("chat")
    return workflow


@pytest.mark.parametrize("name", NAMES)
def test_a_chat_task(chat: Workflow, name: str):
    run, directory = chat.params["runs"][name], chat.directory / "data" / "runs" / name
    family, task = name.split("-")
    metrics, last = json.loads((directory / "metrics.json").read_text()), run["rounds"]
    results = [(row["round"], row["split"], row["length"]) for row in metrics["results"]]
    lengths = run["evaluate"]["lengths"]
    assert results == [(k, split, n) for k in (0, last) for split in ("test", "validation") for n in lengths]
    first = metrics["results"][0]
    assert (first["template"], first["profile"], first["prefill"]) == ("chat", "strict", "<reasoning>")
    assert metrics["selected"]["round"] in (0, last)
    assert ("By number of answer tokens" in (directory / "report.html").read_text()) == (len(lengths) > 1)
    assert (directory / f"round_{last:03d}" / "policy" / "adapter_model.safetensors").exists()
    shards = sorted((directory / "round_001" / "rollouts").glob("*.parquet"))
    rollouts = parquet.read(shards, parquet.ROLLOUTS, may_be_empty=True)
    assert len(shards) == run["rollout"]["shards"]
    assert len(set(parquet.lengths(rollouts, "prompt_tokens"))) == (2 if task in TWO_LENGTHS else 1)
    tokens = parquet.matrix(rollouts, "tokens")
    assert tokens.shape == (4, 16) and (tokens <= LAST_TOKENS[family]).all() and (tokens != MASKS[family]).all()

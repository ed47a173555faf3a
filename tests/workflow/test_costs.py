"""What single stages cost, in operations and memory, against known sizes."""

import pytest

from pipeline.runtime.memory_limits import CHUNK
from pipeline.settings.algorithms import SETTINGS
from pipeline.settings.params_file import read_params
from pipeline.settings.project import Hardware
from pipeline.settings.run import Run
from pipeline.workflow.estimate import Estimate
from tests.conftest import ROOT
from tests.models.hub import LLADA_8B
from tests.workflow.conftest import estimated

LLADA = "llada-countdown-256-dam"
PARAMS = read_params(ROOT / "params.yaml")


def test_best_of_k_decodes_k_answers():
    """Of each item, so what it costs is proportional to K where nothing else is decoded."""

    def flops(count: int) -> float:
        algorithm = {"name": "best_of", "candidates": count}
        return estimated(Run(rounds=0, algorithm=algorithm, evaluate={"samplers": ["ancestral"]})).evaluate().flops

    assert flops(4) == pytest.approx(2 * flops(2))


def test_memory_of_llada_8b():
    """All weights with AdamW in fp32: 119 GiB beside the activations; LoRA of rank 128: 6 GB beside 16 GB."""
    run = PARAMS.runs[LLADA]
    bare = {"batch_size": 1, "gradient_accumulation_steps": 1}
    lora = estimated(run.model_copy(update={"train": run.train.model_copy(update=bare)}))
    one, all_ = (lora._training(lora.run.train, 256, count).bytes(recompute=True) for count in (1, lora.adapters))
    assert lora.weights + all_ - one == pytest.approx(22.1e9, rel=0.01)
    full = run.train.model_copy(update={**bare, "adapter": None})
    model = run.model.model_copy(update={"dtype": "float32"})
    whole = estimated(run.model_copy(update={"train": full, "model": model}))
    assert 119 < whole.train().memory / 2**30 < 125
    parts = Estimate(whole.run, Hardware(processes=8, sharding="full"), LLADA_8B)
    assert whole.train().memory - parts.train().memory == pytest.approx(7 / 8 * 119.4 * 2**30, rel=0.03)


def test_rollouts_of_llada_8b():
    """Prompt 200 + 256 tokens in 128 steps, the head where tokens are revealed: 0.83 PFLOP each."""
    run = PARAMS.runs[LLADA]
    run = run.model_copy(update={"rollout": run.rollout.model_copy(update={"cache": None})})
    estimate, trajectories = estimated(run), run.rollout.prompts * run.rollout.completions
    assert run.rollout.shards * estimate.rollout().flops / trajectories == pytest.approx(0.83e15, rel=0.01)


def test_batches_hold_the_completions_of_a_state_and_remasked_ones_start_half_way():
    run = PARAMS.runs["table-dam-remasked"]
    small = run.model_copy(update={"rollout": run.rollout.model_copy(update={"batch_size": 1})})
    one = run.model_copy(update={"rollout": run.rollout.model_copy(update={"batch_size": run.rollout.completions})})
    assert estimated(small).rollout() == estimated(one).rollout()
    rows = run.rollout.prompts * run.rollout.completions
    replay, first = estimated(run).reference().flops, estimated(PARAMS.runs["table-dam"])
    whole = first.reference().flops / first.run.rollout.prompts / first.run.rollout.completions
    assert replay / rows == pytest.approx(whole / 2)


def test_losses_of_whole_distributions_need_their_memory():
    """20 bytes for each of 2 rows, 32 positions of a block and 126,464 tokens, instead of 12 in chunks."""
    run = PARAMS.runs[LLADA]
    dtm = run.model_copy(update={"algorithm": SETTINGS["dtm"](name="dtm")})
    found, chunks = (estimated(one).train().memory for one in (dtm, run))
    training = estimated(dtm)._training(run.train, 256)
    logits = 20 * training.rows * run.rollout.block_length * LLADA_8B.vocabulary
    assert found - chunks == pytest.approx(logits - 12 * min(CHUNK, training.rows * 256 * LLADA_8B.vocabulary))

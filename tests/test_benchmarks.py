"""The benchmarks run, print their tables, and notice a sampler with another law. No test depends on timings."""

import pytest
import torch

from benchmarks import block_cache, llada_gpu
from benchmarks import rollout as benchmark
from pipeline.samplers.ancestral import rollout

SHAPE = {"hidden": 16, "intermediate": 24, "layers": 1, "heads": 2, "prompt": 3, "answer": 5}
TINY = [f"--{name}={size}" for name, size in {**SHAPE, "batch": 150, "repeats": 2, "initializer-range": 0.5}.items()]


@pytest.fixture(autouse=True)
def _threads():
    """Restore the number of threads, which the benchmark changes."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_table_and_law(capsys):
    assert benchmark.main([*TINY, "--vocabulary", "9", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Hardware: ") and "hidden 16" in lines[1] and "(3 steps)" in lines[1]
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")] == ["vocabulary", "---:", "9", "20"]
    laws = [line for line in lines if line.startswith("Same law at V = ")]
    assert len(laws) == 2 and all(": yes; mean log p of 300 trajectories" in law for law in laws)


def test_another_law_is_noticed(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "rollout", lambda *args, **noise: rollout(*args, **noise, temperature=0.5))
    assert benchmark.main([*TINY, "--vocabulary", "20"]) == 1
    assert "Same law at V = 20: NO;" in capsys.readouterr().out


def test_block_cache(capsys):
    """A line for each sampler, and every recorded log-probability replayed."""
    sizes = [f"--{name}={size}" for name, size in {**SHAPE, "vocabulary": 9, "block": 4, "batch": 20}.items()]
    assert block_cache.main([*sizes, "--repeats=2", "--initializer-range=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "blocks of 4" in lines[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["sampler", "published", "uncached", "cached"]
    assert rows[1][2] == "1.00 (1.00–1.00)" and lines[-1].startswith("Recorded = replayed: yes, to ")


def test_both_samplers_reveal_everything_with_its_log_prob():
    """With one position, the exact log p of its token comes from one forward pass."""
    model = benchmark.create(benchmark.ModelSection(initializer_range=0.5), 9, 8).eval()
    prompt = torch.randint(8, (50, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(input_ids=torch.nn.functional.pad(prompt, (0, 1), value=8)).logits[:, -1].log_softmax(dim=1)
    for sampler in benchmark.SAMPLERS.values():
        tokens, log_prob = sampler(model, prompt, 1, 8, 1)
        torch.testing.assert_close(log_prob, exact.gather(1, tokens), rtol=0, atol=1e-4)


def test_llada_gpu_on_a_cpu(capsys):
    """With the small shape, every table has all its lines."""
    torch.set_num_threads(1)
    sizes = "--shape small --device cpu --prompt 3 --answer 4 --updates 1 --product 64 --batch 1 2 --train-batch 2"
    assert llada_gpu.main(sizes.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Hardware: ") and "211,904 random parameters in bfloat16" in lines[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(("| 1 ", "| 2 "))]
    assert [row[0] for row in rows] == ["1", "2", "2"] and all(float(row[1]) > 0 for row in rows)
    assert sum(line.startswith("| `") for line in lines) == 2 * llada_gpu.TOP

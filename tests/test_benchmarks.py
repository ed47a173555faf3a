"""The benchmarks run, print their tables, and notice a sampler with another law. No test depends on timings."""

import json

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


def test_a_block_cache_without_another_law(capsys):
    """Of a model that sees block by block, whose rollouts are compared with those without a cache."""
    sizes = [f"--{name}={size}" for name, size in {**SHAPE, "vocabulary": 9, "block": 4, "batch": 4}.items()]
    assert block_cache.main([*sizes, "--model=sdar", "--repeats=1", "--initializer-range=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["sampler", "uncached", "cached"]


def test_both_samplers_reveal_everything_with_its_log_prob():
    """With one position, the exact log p of its token comes from one forward pass."""
    model = benchmark.PLUGIN.create(benchmark.ModelSection(initializer_range=0.5), 9, 8, 0).eval()
    prompt = torch.randint(8, (50, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(input_ids=torch.nn.functional.pad(prompt, (0, 1), value=8)).logits[:, -1].log_softmax(dim=1)
    for sampler in benchmark.SAMPLERS.values():
        tokens, log_prob = sampler(model, prompt, 1, 8, 1)
        torch.testing.assert_close(log_prob, exact.gather(1, tokens), rtol=0, atol=1e-4)


def test_llada_gpu_on_a_cpu(capsys, tmp_path):
    """With the small shape, every table has all its lines, and the file has them too; two processes train as well."""
    torch.set_num_threads(1)
    sizes = "--shape small --prompt 3 --answer 4 --block 2 --updates 1 --product 64 --batch 1 2 --train-batch 2"
    options = ["--blocks", "eager", "--processes", "1", "2", "--json", str(tmp_path / "speed.json")]
    assert llada_gpu.main([*sizes.split(), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Hardware: ") and sum(line.startswith("| `") for line in lines) == 2 * 8
    found = json.loads((tmp_path / "speed.json").read_text())
    rollouts, training = found["rollouts"], found["training"]
    wanted = [("apart", "none"), *[("merged", cache) for cache in llada_gpu.CACHES]]
    names = [f"adapters {state}, eager, cache {cache}" for state, cache in wanted for _ in (1, 2)]
    assert [row["what"] for row in rollouts] == names
    assert [row["what"] for row in training] == ["eager, checkpointing on", "eager, checkpointing off"] * 2
    assert [row["processes"] for row in training] == [1, 1, 2, 2]
    assert not [row for row in (*rollouts, *training) if "error" in row or not row["tokens_per_second"] > 0]
    assert [row["tokens"] for row in rollouts[:2]] == [2, 4] and training[2]["tokens"] == 2 * training[0]["tokens"]
    assert set(found["start"]) == {"imports", "fingerprint", "weights"}


def test_llada_gpu_goes_on_after_a_failure(capsys):
    table = llada_gpu.Table("Title", 1.0)

    def fails() -> llada_gpu.Row:
        raise torch.OutOfMemoryError("no memory\nmore")

    table.measure("first", fails)
    assert table.rows == [{"what": "first", "error": "no memory"}]
    assert capsys.readouterr().out.endswith("| first | no memory |\n")

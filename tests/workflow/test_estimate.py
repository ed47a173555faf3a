"""The estimate against what real runs computed, kept and wrote, against known sizes, and as a dry run prints it."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
import yaml

from pipeline.models import adapters
from pipeline.models.llada import PLUGIN
from pipeline.settings.params_file import parse_params, read_params
from pipeline.settings.project import Keep
from pipeline.settings.run import Run
from pipeline.settings.sections import Adapter
from pipeline.workflow.dry_run import estimate_table, left_on_disk
from pipeline.workflow.estimate import shape_of
from pipeline.workflow.machine import Machine, machine_of
from tests.conftest import ROOT
from tests.conftest import llada as tiny
from tests.models.hub import LLADA_8B
from tests.small_workflow import SMALL, Workflow
from tests.workflow.conftest import estimated

LLADA = "llada-countdown-256-dam"
PARAMS = read_params(ROOT / "params.yaml")


def test_a_finished_run(finished: Workflow):
    """Operations and files of a round to 10 %, of the stages that measure or write them."""
    estimate = estimated(parse_params(SMALL).runs["small"], processes=1)
    folder, timings = finished.run_directory / "round_001", finished.run_directory / "timings"

    def measured(name: str) -> float:
        return json.loads((timings / f"{name}.json").read_text())["measured"]["flops"]

    def size(*patterns: str) -> int:
        return sum(path.stat().st_size for pattern in patterns for path in folder.glob(pattern))

    assert estimate.rollout().flops == pytest.approx(measured("rollout_001_00"), rel=0.1)
    assert estimate.train().flops == pytest.approx(measured("train_001"), rel=0.1)
    sizes = {"policies": size("policy/*.safetensors"), "optimizer": size("optimizer.safetensors")}
    assert estimate.train().disk == pytest.approx(sizes, rel=0.1)
    kept = json.loads((finished.run_directory / "round_000" / "train.json").read_text())["parameters"]
    assert estimate.base().disk == {"policies": 4 * kept}


def test_held_out_rows_of_a_file_are_those_that_are_decoded(tmp_path):
    """In place of those of the data set on the Hub: drawn, marked in the file, or in a file of their own."""
    rows = [{"question": f"{n}?", "answer": "1", "split": "test" if n < 3 else "train"} for n in range(9)]
    marked, plain = tmp_path / "marked.jsonl", tmp_path / "plain.jsonl"
    marked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain.write_text("".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows))

    def flops(**data: object) -> float:
        run = {"extends": "llada-gsm8k-256-dam", "task": {"data": {"hub": None, "config": None, **data}}}
        params = {**yaml.safe_load((ROOT / "params.yaml").read_text()), "suites": {}, "describe": {}}
        params["runs"]["mine"] = run
        return estimated(parse_params(params).runs["mine"]).evaluate().flops

    of_one = flops(path=str(plain), test_items=1) - flops(path=str(plain), test_items=2)
    assert of_one < 0
    drawn = flops(path=str(plain), test_items=3)
    assert drawn == flops(path=str(marked)) == pytest.approx(flops(path=str(plain), test_items=2) - of_one)
    assert flops(path=str(plain), test_path=str(plain)) == pytest.approx(drawn - 6 * of_one)


def test_rows_on_disk(finished: Workflow):
    """The rows of a round to a factor of 2; an eighth of such small files is rows, the rest is Parquet's own."""
    estimate = estimated(parse_params(SMALL).runs["small"])
    folder = finished.run_directory / "round_002"
    files = [*folder.glob("rollouts/*.parquet"), *folder.glob("targets/*.parquet")]
    written = sum(path.stat().st_size for path in files)
    rollouts, targets = (stage().disk["buffers"] for stage in (estimate.rollout, estimate.adjoint))
    assert written / 8 < 2 * rollouts + targets < 2 * written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [False, True])
def test_activations_of_a_block(dtype, lora, tmp_path):
    """The bytes that a real block keeps for its backward pass, to 20 %."""

    def kept(layers: int) -> int:
        model = tiny(101, 100, hidden_size=64, intermediate_size=160, num_hidden_layers=layers).to(dtype).train()
        if lora:
            adapters.train(model, run.train.adapter, tmp_path / "base", tmp_path / "out")
        own, sizes = {value.untyped_storage().data_ptr() for value in model.parameters()}, {}
        tensors = []  # kept alive, so that no storage takes another's place

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            tensors.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=torch.zeros(4, 32, dtype=torch.long), select=torch.eye(4, 32) > 0)
        return sum(size for storage, size in sizes.items() if storage not in own)

    model = {"hidden_size": 64, "intermediate_size": 160, "dtype": str(dtype).removeprefix("torch.")}
    run = Run.model_validate({"model": model, "train": {"adapter": {"rank": 8} if lora else None}})
    estimate = estimated(run)
    training = estimate._training(run.train, estimate.answer, estimate.adapters)
    assert 4 * 32 * training.activations() == pytest.approx(kept(3) - kept(2), rel=0.2)


def test_sizes_come_from_where_the_base_comes_from(tmp_path):
    assert shape_of(Run(base={"path": "GSAI-ML/LLaDA-8B-Base"})) == LLADA_8B
    model = tiny(101, 100)
    PLUGIN.save(model, tmp_path)
    shape = shape_of(Run(base={"path": str(tmp_path)}))
    assert shape is not None and shape.parameters == sum(value.numel() for value in model.parameters())
    assert shape_of(Run(model={"name": "tabular"})) is None
    adapters.train(model, Adapter(rank=2), tmp_path, tmp_path / "adapters")
    PLUGIN.save(model, tmp_path / "adapters")
    assert shape_of(Run(base={"path": str(tmp_path / "adapters")})) == shape


def test_one_table_or_a_line_for_each():
    stages = {"base": 1, "rollout": 44, "train": 22, "prepare": 1}
    counts = {("sudoku-dam", stage): count for stage, count in stages.items()}
    table = estimate_table(counts, PARAMS, Machine(cores=2)).splitlines()
    assert table[0].startswith("sudoku-dam, estimated: 152 k parameters, 16 + 16 tokens, one core at 12 GFLOP/s")
    assert [line.split()[0] for line in table[1:]] == ["stage", "base", "rollout", "train", "total"]
    assert table[-1].split()[1] == "67"
    smoke = estimate_table({("smoke-chat", "train"): 1}, PARAMS, Machine(cores=2))
    assert re.match(r"smoke-chat, estimated: \d+ k parameters, \d+ k in adapters, ", smoke)
    names = ["sudoku-dam", "sudoku-dam-seed1", "sudoku-dam-seed2", LLADA, "checkerboard-dam"]
    trained = dict.fromkeys(((name, "train") for name in names), 1)
    cpu, gpu = estimate_table(trained, PARAMS, Machine(cores=2)).split("\n\n")
    assert [line.split()[0] for line in cpu.splitlines()] == ["run,", *names[:3], "together"]
    assert [line.split()[0] for line in gpu.splitlines()] == ["run,", LLADA, "together"]
    nothing = {("sudoku-dam", "prepare"): 1, ("checkerboard-dam", "train"): 1, ("", "all"): 1}
    assert estimate_table(nothing, PARAMS, Machine(cores=2)) == ""


@pytest.mark.parametrize("jobs", [1, 3, 22])
def test_what_is_left_on_disk(jobs):
    """The policies of all rounds; of the other files those of as many rounds as `keep` says, of rollouts each shard."""
    estimate = estimated(PARAMS.runs["sudoku-dam"])
    train, rollout = estimate.train(), estimate.rollout()
    policies, states = train.disk["policies"], train.disk["optimizer"]
    assert states == 2 * policies > 0
    for keep, count in (
        (Keep(buffers="all", optimizer="all"), 99),
        (Keep(buffers=1, optimizer=1), 1),
        (Keep(buffers=2, optimizer=2), 2),
    ):
        assert left_on_disk(train, jobs, 1, keep) == jobs * policies + min(jobs, count) * states
        assert left_on_disk(rollout, 2 * jobs, 2, keep) == min(jobs, count) * 2 * rollout.disk["buffers"]
    kept, pruned = (
        estimate_table({(LLADA, "train"): 32}, PARAMS.model_copy(update={"keep": Keep(optimizer=count)}), Machine(1))
        for count in ("all", 1)
    )
    assert [float(table.split()[-1]) for table in (kept, pruned)] == [150, 26]


def times(machine: Machine, jobs: dict[str, int], name: str = LLADA) -> dict[str, tuple[float, float]]:
    """Stage -> time of all its GPUs or cores, time on the clock; as printed."""
    table = estimate_table({(name, stage): count for stage, count in jobs.items()}, PARAMS, machine).splitlines()[2:]
    return {row[0]: (float(row[3].replace(",", "")), float(row[4].replace(",", ""))) for row in map(str.split, table)}


def test_what_runs_side_by_side():
    """Eight shards on four, eight or too many GPUs; cores that start fewer jobs; training on as many as it may use."""
    jobs = {"rollout": 256, "train": 32, "decode": 40}
    one, four, eight, many = (times(Machine(cores=16, devices=count), jobs) for count in (1, 4, 8, 16))
    for stage in (*jobs, "total"):
        assert one[stage][0] == one[stage][1] == eight[stage][0]
        assert four[stage][1] == pytest.approx(one[stage][1] / 4, rel=0.06)
        assert eight[stage][1] == many[stage][1] == pytest.approx(one[stage][1] / 8, rel=0.06)
    assert times(Machine(cores=2, devices=8), jobs)["rollout"][1] == pytest.approx(one["rollout"][1] / 2, rel=0.06)
    assert times(Machine(cores=16), jobs) == one  # no GPU to be seen: as if there were one
    nine = times(Machine(cores=16, devices=8), {"rollout": 9})["rollout"]
    assert nine[1] == pytest.approx(nine[0] * 2 / 9, rel=0.06)  # a whole round, then one of the next
    cluster = times(Machine(cores=1, cluster_jobs=100, cluster_gpus=2), jobs)
    assert cluster["rollout"][1] == eight["rollout"][1]
    assert cluster["train"][1] == pytest.approx(one["train"][1] / 2, rel=0.06)


def test_what_runs_side_by_side_on_cores():
    """Two shards a round, and training with two processes of one thread."""
    jobs = {"rollout": 20, "train": 10, "evaluate": 4}
    for cores in (1, 2, 8):
        shared = {"rollout": min(2, cores), "train": min(2, cores), "evaluate": 1}
        for stage, (added_up, clock) in times(Machine(cores), jobs, "sudoku-dam").items():
            if stage in shared:
                assert clock == pytest.approx(added_up / shared[stage], rel=0.06)


def test_runs_of_a_suite_fill_each_others_gaps():
    names = ["sudoku-dam", "sudoku-dam-seed1", "sudoku-dam-seed2"]

    def together(cores: int) -> list[float]:
        lines = estimate_table({(name, "evaluate"): 4 for name in names}, PARAMS, Machine(cores)).splitlines()
        return [float(line.split()[4]) for line in (lines[1], lines[-1])]

    alone, of_one = together(1)
    assert of_one == pytest.approx(3 * alone, rel=0.06)
    assert together(2)[1] == pytest.approx(1.5 * alone, rel=0.06)
    assert together(4) == [alone, alone]


def test_the_machine_is_what_snakemake_was_given():
    def job(rule: str, **resources: object) -> SimpleNamespace:
        return SimpleNamespace(rule=SimpleNamespace(name=rule), resources=resources)

    pending = [job("train", gres="gpu:a100:4", nodes=2), job("train"), job("rollout", gres="gpu:64")]
    assert machine_of(SimpleNamespace(cores=8, nodes=None), 4, pending) == Machine(8, 4)
    assert machine_of(SimpleNamespace(cores=None, nodes=100), 0, pending) == Machine(1, 0, 100, 8)
    assert machine_of(SimpleNamespace(cores=1, nodes=100), 0, []).cluster_gpus == 0


def test_a_dry_run_prints_it(workflow: Workflow, copied: Workflow):
    """Only for pending jobs, and not with `--quiet all`; Snakemake's own table of jobs stands there once."""
    output = workflow("--dry-run")
    assert "small, estimated: " in output and output.count("Job stats:") == 1
    assert "estimated" not in workflow("--dry-run", "--quiet", "all")
    assert "estimated" not in copied("--dry-run")


@pytest.mark.parametrize("name", [LLADA, "llada-math500-256-svdd"])
def test_runs_of_llada_8b_without_network(workflow: Workflow, name: str):
    workflow.params = yaml.safe_load((ROOT / "params.yaml").read_text())
    printed = workflow("--dry-run", name)
    (head,) = [line for line in printed.splitlines() if line.startswith(f"{name}, estimated: ")]
    assert "8.02 B parameters" in head and "h100" in head and " at once" in head and "decode" in printed
    assert not (workflow.directory / "data").exists()


def test_all_named_runs_of_llada_8b():
    """Each fits one GPU of 80 GB."""
    tasks = [(task, length) for task in ("sudoku", "countdown", "gsm8k", "math500") for length in (128, 256)]
    for task, length in tasks:
        for method, algorithm in {"dam": "dam", "d1": "diffu_grpo", "svdd": "svdd"}.items():
            run = PARAMS.runs[f"llada-{task}-{length}-{method}"]
            assert (run.task.name, run.task.answer_length, run.algorithm.name) == (task, length, algorithm)
            assert all(cost.memory < 80e9 for cost in estimated(run).stages().values())

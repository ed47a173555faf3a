"""LLaDA-8B as the pipeline uses it: rollouts, training steps and the start of a stage, on one GPU or several.

The weights are random and made on the device; sampler, adapters, optimiser, training loop and files are the pipeline's.
A share is that of the GPU's peak or, where that is unknown, of the speed of a large matrix product. A line that fails,
for example for want of memory, says why, and the others go on.

    python -m benchmarks.llada_gpu --json speed.json
    python -m benchmarks.llada_gpu --shape small --prompt 17 --answer 32 --batch 4 --train-batch 4
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

from benchmarks.llada_bench import CACHES, SHAPES, Bench, Row, product_speed, set_compiled, top
from benchmarks.rollout import at_least_one, parser_of
from pipeline.models.flops import peak
from pipeline.models.llada import PLUGIN
from pipeline.models.merging import merge
from pipeline.models.policy_directory import load_policy, save_policy, weight_files
from pipeline.runtime.distributed import device, distribute, is_main_process, processes
from pipeline.storage.fingerprint import fingerprint_of
from pipeline.storage.provenance import hardware
from pipeline.text.tokenizer import character_tokenizer
from pipeline.training.throughput import now

BLOCKS, PARTS = ("eager", "compiled"), ("rollouts", "training", "start")


class Table:
    """Prints a line for each measurement as it comes, and keeps it for the JSON file."""

    def __init__(self, title: str, best: float):
        self.best, self.rows = best, list[dict[str, object]]()
        head = ["what", "batch", "processes", "seconds", "tokens/s", "TFLOP/s", "share", "GB", "before, with compiling"]
        if is_main_process():
            print(f"\n{title}.\n", line(head), line(["---", *["---:"] * 8]), sep="\n", flush=True)

    def measure(self, what: str, work: Callable[[], Row]) -> None:
        try:
            row = work()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            if processes() > 1:  # the others wait for this one
                raise
            reason = str(error).splitlines()[0][:120]
            self.rows.append({"what": what, "error": reason})
            print(line([what, reason]), flush=True)
            return
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        speed = row.flops / row.seconds
        found = {"tokens_per_second": row.tokens / row.seconds, "share": speed / self.best}
        self.rows.append({**asdict(row), "what": what, **found})
        numbers = [f"{row.seconds:.3g}", f"{found['tokens_per_second']:.4g}", f"{speed / 1e12:.3g}"]
        numbers += [f"{found['share']:.0%}", f"{row.memory / 1e9:.1f}" if row.memory else "–"]
        numbers += [f"{row.first_seconds:.3g}"]
        if is_main_process():
            print(line([what, str(row.batch), str(row.processes), *numbers]), flush=True)


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def rollouts(bench: Bench, best: float) -> list[dict[str, object]]:
    """Of a policy whose adapters are apart, as they train, and merged, as rule `rollout` samples from them."""
    table = Table(f"Rollouts in blocks of {bench.args.block}; tokens of answers", best)
    bench.add_adapters()
    for state, blocks in product(("apart", "merged"), bench.args.blocks):
        if state == "merged":
            merge(bench.model)
        set_compiled(bench.model, blocks == "compiled")
        for cache, batch in product(CACHES if state == "merged" else CACHES[:1], bench.args.batch):
            what = f"adapters {state}, {blocks}, cache {cache}"
            table.measure(what, lambda cache=cache, batch=batch: bench.rollout(batch, cache))  # type: ignore[misc]
    operators("Operators of the last block", lambda: bench.sample(bench.args.batch[0], CACHES[-1]), bench.args.top)
    return table.rows


def operators(title: str, work: Callable[[], object], count: int) -> None:
    """Print those that take most of the device's time."""
    print(f"\n{title}.\n", line(["operator", "calls", "ms", "share"]), line(["---", *["---:"] * 3]), sep="\n")
    for name, calls, milliseconds, share in top(work, count):
        print(line([f"`{name[:60]}`", str(calls), f"{milliseconds:.4g}", f"{share:.0%}"]), flush=True)


def training(bench: Bench, best: float) -> list[dict[str, object]]:
    """With adapters, compiled or not, with gradient checkpointing and without."""
    table = Table("Training: a step with LoRA and AdamW; tokens of prompts and answers", best)
    bench.add_adapters()
    distribute(bench.model, sharded=False)
    for blocks, recompute, batch in product(bench.args.blocks, (True, False), bench.args.train_batch):
        set_compiled(bench.model, blocks == "compiled")
        what = f"{blocks}, checkpointing {'on' if recompute else 'off'}"
        table.measure(what, lambda batch=batch, recompute=recompute: bench.train(batch, recompute))  # type: ignore[misc]
    if processes() == 1:
        batch = bench.args.train_batch[0]
        operators("Operators of training steps", lambda: bench.train(batch, recompute=False), bench.args.top)
    return table.rows


def start(bench: Bench) -> dict[str, float]:
    """Seconds that a stage takes before it computes: imports, weights to the device, the fingerprint of their files."""
    with tempfile.TemporaryDirectory(dir=bench.args.folder) as folder:
        path = Path(folder) / "policy"
        letters = map(chr, range(0x10000, 0x10000 + bench.mask_id))  # any characters, as many as the vocabulary has
        save_policy(path, bench.model, character_tokenizer("".join(letters)), PLUGIN)
        del bench.model  # its memory is needed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pipeline.models.transformer, pipeline.training.loop"], check=True)
        imported = time.perf_counter()
        fingerprint_of(*weight_files(path))
        fingerprinted = now()
        load_policy(path, PLUGIN, device())
        loaded = now()
    seconds = {"imports": imported - begun, "fingerprint": fingerprinted - imported, "weights": loaded - fingerprinted}
    print("\nStart of a stage, seconds.\n", line(list(seconds)), line(["---:"] * len(seconds)), sep="\n")
    print(line([f"{value:.2f}" for value in seconds.values()]), flush=True)
    return seconds


def on_processes(count: int, arguments: list[str]) -> list[dict[str, object]]:
    """The training part in so many processes, one for each GPU."""
    with tempfile.TemporaryDirectory() as folder:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
        own = ["--part", "training", "--processes", "1", "--json", str(Path(folder) / "rows.json")]
        done = subprocess.run([*torchrun, "-m", "benchmarks.llada_gpu", *arguments, *own], check=False)
        if done.returncode:
            return [{"what": f"{count} processes", "error": f"exit status {done.returncode}"}]
        rows: list[dict[str, object]] = json.loads((Path(folder) / "rows.json").read_text())["training"]
        return rows


def report(args: argparse.Namespace, arguments: list[str]) -> dict[str, object]:
    name = hardware()
    measured = product_speed(args.product)
    best = peak(name) or measured
    found: dict[str, object] = {"hardware": name, "torch": torch.__version__, "product": measured, "peak": best}
    found["arguments"] = {key: value for key, value in vars(args).items() if key not in ("json", "folder")}
    if is_main_process():
        print(f"Hardware: {name}, torch {torch.__version__}; a bfloat16 product of {args.product}³ runs at", end=" ")
        print(f"{measured / 1e12:.3g} TFLOP/s; shares are of {best / 1e12:.4g} TFLOP/s.", flush=True)
    if "rollouts" in args.part:
        found["rollouts"] = rollouts(Bench(args), best)
    if "training" in args.part:
        found["training"] = training(Bench(args), best)
    for count in args.processes if "training" in args.part else ():
        found["training"] += on_processes(count, arguments) if count > 1 else []  # type: ignore[operator]
    if "start" in args.part:
        found["start"] = start(Bench(args))
    return found


def main(arguments: list[str] | None = None) -> int:
    cuda, gpus = torch.cuda.is_available(), torch.cuda.device_count()
    sizes = (
        ("prompt", 200, "prompt tokens"),
        ("answer", 256, "answer tokens"),
        ("block", 32, "answer tokens in a block, of which one is sampled"),
        ("tokens-per-step", 2, "positions revealed per step"),
        ("updates", 3, "timed training steps"),
        ("top", 8, "operators of a profile"),
        ("product", 8192 if cuda else 1024, "size of the matrix product that is timed"),
    )
    parser = parser_of(__doc__, sizes)
    parser.add_argument("--shape", choices=SHAPES, default="8b" if cuda else "small", help="of the model")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="what to measure")
    parser.add_argument("--blocks", choices=BLOCKS, nargs="+", default=BLOCKS, help="as they are, or compiled")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--folder", type=Path, help="where the start of a stage writes its weights, 16 GB for LLaDA-8B")
    for option, counts, text in (
        ("batch", [64], "answers sampled at once"),
        ("train-batch", [8], "sequences of a training step in each process"),
        ("processes", sorted({1, max(1, gpus)}), "GPUs that train side by side"),
    ):
        parser.add_argument(f"--{option}", type=at_least_one, nargs="+", default=counts, help=text)
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = cuda
    found = report(args, arguments)
    if args.json and is_main_process():
        args.json.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

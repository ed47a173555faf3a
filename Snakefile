"""Discrete Adjoint Matching, rule by rule in the order of the algorithm.

policy_{k-1} --rollout--> trajectories --reference--> log p^base --adjoint--> targets --train--> policy_k; round 0 is the
base model.
"""


include: "pipeline/workflow/setup.smk"  # params.yaml, and the functions that rules call below


localrules:
    all,


rule all:
    """The default run."""
    input:
        f"data/runs/{PARAMS.default_run}/report.html",


for target, files in TARGETS.items():

    rule:
        name:
            target
        input:
            files,


for target in TARGETS:
    workflow.get_rule(target).docstring = DESCRIPTIONS[target]


rule prepare:
    """The items of all splits."""
    output:
        expand(
            "data/runs/{run}/items/{split}.parquet",
            split=SPLITS,
            allow_missing=True,
        ),
        timing="data/runs/{run}/timings/prepare.json",
    log:
        "data/runs/{run}/logs/prepare.log",
    resources:
        launch=PLAIN,
    params:
        settings=settings("prepare"),
        code=code("prepare"),
    shell:
        "{resources.launch} pipeline.stages.prepare --settings {params.settings:q}"
        " --out data/runs/{wildcards.run}/items --timing {output.timing} --code {params.code:q}"
        " > {log} 2>&1 || failed {log}"


rule base:
    """The base model, pre-trained or imported."""
    input:
        corpus="data/runs/{run}/items/base.parquet",
    output:
        policy=directory("data/runs/{run}/round_000/policy"),
        summary="data/runs/{run}/round_000/train.json",
        timing="data/runs/{run}/timings/base.json",
    log:
        "data/runs/{run}/logs/base.log",
    threads: lambda wildcards: max(1, base_processes(wildcards)) * HARDWARE.threads
    resources:
        launch=lambda wildcards: launch_ranks(base_processes(wildcards)),
        devices=lambda wildcards: devices_for(base_processes(wildcards)),
        sharding=HARDWARE.sharding,
        limits=lambda wildcards: wf.prompt_limits(wildcards.run, RUNS, ORIGINS),
        compile=COMPILE,
    params:
        settings=settings("base"),
        code=code("base"),
        checkpoint="data/runs/{run}/round_000/train.checkpoint",
    shell:
        "{resources.launch} pipeline.stages.base --settings {params.settings:q}"
        " --items {input.corpus} --limits {resources.limits:q}"
        " --out {output.policy} --summary {output.summary}"
        " --checkpoint {params.checkpoint} --code {params.code:q} --timing {output.timing} --threads {threads} --compile {resources.compile}"
        " --sharding {resources.sharding}"
        " > {log} 2>&1 || failed {log}"


rule rollout:
    """Trajectories with their log-probabilities, and rewards."""
    input:
        prompts=of_origin("data/runs/{run}/items/train.parquet"),
        policy=policy(round_before),
    output:
        rollouts="data/runs/{run}/round_{round}/rollouts/{shard}.parquet",
        timing="data/runs/{run}/timings/rollout_{round}_{shard}.json",
    log:
        "data/runs/{run}/logs/rollout_{round}_{shard}.log",
    priority: 1
    threads: THREADS
    resources:
        launch=ON_DEVICE,
        devices=ONE,
        compile=COMPILE,
    params:
        settings=settings("rollout"),
        code=code("rollout"),
    shell:
        "{resources.launch} pipeline.stages.rollout --settings {params.settings:q}"
        " --items {input.prompts} --policy {input.policy} --round {wildcards.round}"
        " --shard {wildcards.shard} --out {output.rollouts}"
        " --timing {output.timing} --code {params.code:q} --threads {threads} --compile {resources.compile}"
        " > {log} 2>&1 || failed {log}"


rule reference:
    """The base's log-probabilities along the trajectories."""
    input:
        rollouts="data/runs/{run}/round_{round}/rollouts/{shard}.parquet",
        base=of_origin("data/runs/{run}/round_000/policy"),
    output:
        references="data/runs/{run}/round_{round}/references/{shard}.parquet",
        timing="data/runs/{run}/timings/reference_{round}_{shard}.json",
    log:
        "data/runs/{run}/logs/reference_{round}_{shard}.log",
    priority: 1
    threads: THREADS
    resources:
        launch=ON_DEVICE,
        devices=ONE,
        compile=COMPILE,
    params:
        settings=settings("reference"),
        code=code("reference"),
        replay=lambda wildcards: RUNS[wildcards.run].algorithm.replayed(RUNS[wildcards.run].rollout),
    shell:
        "{resources.launch} pipeline.stages.reference --settings {params.settings:q}"
        " --rollouts {input.rollouts} --base {input.base} --round {wildcards.round}"
        " --shard {wildcards.shard} --replay {params.replay} --out {output.references}"
        " --timing {output.timing} --code {params.code:q} --threads {threads} --compile {resources.compile}"
        " > {log} 2>&1 || failed {log}"


rule adjoint:
    """Targets: completions and their weights."""
    input:
        rollouts=lambda wildcards: wf.shards("rollouts", RUNS[wildcards.run], wildcards),
        references=lambda wildcards: wf.shards("references", RUNS[wildcards.run], wildcards),
        previous=of_round_before("data/runs/{run}/round_{round}/targets/targets.parquet"),
        policy=policy(round_before),
    output:
        targets="data/runs/{run}/round_{round}/targets/targets.parquet",
        summary="data/runs/{run}/round_{round}/adjoint.json",
        timing="data/runs/{run}/timings/adjoint_{round}.json",
    log:
        "data/runs/{run}/logs/adjoint_{round}.log",
    priority: 1
    threads: HARDWARE.threads
    resources:
        launch=FORK,
    params:
        settings=settings("adjoint"),
        code=code("adjoint"),
        previous=lambda wildcards, input: (
            f"--previous-targets {input.previous}" if input.previous else ""
        ),
    shell:
        "{resources.launch} pipeline.stages.adjoint --settings {params.settings:q}"
        " --rollouts {input.rollouts} --references {input.references} {params.previous}"
        " --policy {input.policy} --round {wildcards.round}"
        " --out {output.targets} --summary {output.summary}"
        " --timing {output.timing} --code {params.code:q} --threads {threads}"
        " > {log} 2>&1 || failed {log}"


rule train:
    """The policy of a round, fitted to the targets."""
    input:
        targets="data/runs/{run}/round_{round}/targets/targets.parquet",
        base=of_origin("data/runs/{run}/round_000/policy"),
        policy=policy(round_before),
        optimizer=of_round_before("data/runs/{run}/round_{round}/optimizer.safetensors"),
    output:
        policy=directory("data/runs/{run}/round_{round}/policy"),
        optimizer="data/runs/{run}/round_{round}/optimizer.safetensors",
        summary="data/runs/{run}/round_{round}/train.json",
        timing="data/runs/{run}/timings/train_{round}.json",
    log:
        "data/runs/{run}/logs/train_{round}.log",
    wildcard_constraints:
        round=r"(?!000)\d{3}",
    priority: 1
    threads: lambda wildcards: processes(wildcards) * HARDWARE.threads
    resources:
        launch=lambda wildcards: launch_ranks(processes(wildcards)),
        devices=lambda wildcards: devices_for(processes(wildcards)),
        sharding=HARDWARE.sharding,
        keep=KEEP,
        compile=COMPILE,
    params:
        settings=settings("train"),
        code=code("train"),
        optimizer=lambda wildcards, input: (
            f"--optimizer {input.optimizer}" if input.optimizer else ""
        ),
        checkpoint="data/runs/{run}/round_{round}/train.checkpoint",
    shell:
        "{resources.launch} pipeline.stages.train --settings {params.settings:q}"
        " --targets {input.targets} --base {input.base} --policy {input.policy} {params.optimizer}"
        " --round {wildcards.round} --out {output.policy}"
        " --optimizer-out {output.optimizer} --summary {output.summary}"
        " --checkpoint {params.checkpoint} --code {params.code:q} --timing {output.timing} --threads {threads} --compile {resources.compile}"
        " --sharding {resources.sharding} --keep {resources.keep:q}"
        " > {log} 2>&1 || failed {log}"


include: "pipeline/workflow/evaluation.smk"  # answers, scores, reports


if workflow.is_main_process:
    for run in RUNS:
        judge(wf.timings(run), workflow.rules, made_with.expected_of(RUNS[run], run))
    for suite, named in PARAMS.suites.items():
        judge(
            [Path(f"data/results/timings/{suite}.json")],
            workflow.rules,
            made_with.expected_of_suite(named),
        )

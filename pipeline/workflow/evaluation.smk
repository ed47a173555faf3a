"""How good the policies are: the rules for answers, scores, laws and reports.

The Snakefile includes this file.
"""


rule decode:
    """Answers to held-out prompts, a shard of them."""
    input:
        splits=held_out,
        policy=policy(this_round),
    output:
        answers="data/runs/{run}/round_{round}/answers/{shard}.parquet",
        timing="data/runs/{run}/timings/evaluate_{round}_{shard}.json",
    log:
        "data/runs/{run}/logs/evaluate_{round}_{shard}.log",
    threads: THREADS
    resources:
        launch=ON_DEVICE,
        devices=ONE,
        compile=COMPILE,
    params:
        settings=settings("decode"),
        code=code("decode"),
    shell:
        "{resources.launch} pipeline.stages.decode --settings {params.settings:q}"
        " --items {input.splits} --policy {input.policy} --round {wildcards.round}"
        " --shard {wildcards.shard} --out {output.answers}"
        " --timing {output.timing} --code {params.code:q} --threads {threads} --compile {resources.compile}"
        " > {log} 2>&1 || failed {log}"


rule evaluate:
    """Scores on held-out prompts."""
    input:
        splits=held_out,
        answers=lambda wildcards: wf.shards("answers", RUNS[wildcards.run], wildcards),
        policy=policy(this_round),
    output:
        summary="data/runs/{run}/round_{round}/evaluation.json",
        timing="data/runs/{run}/timings/evaluate_{round}.json",
    log:
        "data/runs/{run}/logs/evaluate_{round}.log",
    threads: THREADS
    resources:
        launch=lambda wildcards: ON_DEVICE if opens_policy(wildcards) else FORK,
        devices=lambda wildcards: ONE * opens_policy(wildcards),
        compile=COMPILE,
    params:
        settings=settings("evaluate"),
        code=code("evaluate"),
    shell:
        "{resources.launch} pipeline.stages.evaluate --settings {params.settings:q}"
        " --items {input.splits} --answers {input.answers} --policy {input.policy}"
        " --round {wildcards.round} --out {output.summary}"
        " --timing {output.timing} --code {params.code:q} --threads {threads} --compile {resources.compile}"
        " > {log} 2>&1 || failed {log}"


rule joint:
    """The law of the last policy, written out (enumerated tasks)."""
    input:
        prompts=of_origin("data/runs/{run}/items/test.parquet"),
        policy=policy(last_round),
    output:
        joint="data/runs/{run}/joint.parquet",
        timing="data/runs/{run}/timings/joint.json",
    log:
        "data/runs/{run}/logs/joint.log",
    resources:
        launch=FORK,
    params:
        settings=settings("joint"),
        code=code("joint"),
    shell:
        "{resources.launch} pipeline.stages.joint --settings {params.settings:q} --items {input.prompts}"
        " --policy {input.policy} --out {output.joint} --timing {output.timing} --code {params.code:q} --threads {threads}"
        " > {log} 2>&1 || failed {log}"


rule report:
    """A run's report, metrics and figures."""
    input:
        lambda wildcards: wf.report_inputs(RUNS[wildcards.run], wildcards.run, ORIGINS),
    output:
        html=report("data/runs/{run}/report.html", category="Runs", labels={"run": "{run}"}),
        figure="data/runs/{run}/learning_curve.svg",
        metrics="data/runs/{run}/metrics.json",
        summary="data/runs/{run}/summary.json",
        curve="data/runs/{run}/curve.json",
        timing="data/runs/{run}/timings/report.json",
    log:
        "data/runs/{run}/logs/report.log",
    resources:
        launch=FORK,
        keep=KEEP,
    params:
        settings=settings("report"),
        code=code("report"),
        origin=lambda wildcards: f"data/runs/{ORIGINS[wildcards.run]}",
        joint=lambda wildcards: (
            f"--joint data/runs/{wildcards.run}/joint.parquet"
            if wf.enumerated(RUNS[wildcards.run])
            else ""
        ),
    shell:
        "{resources.launch} pipeline.stages.report --settings {params.settings:q}"
        " --run data/runs/{wildcards.run} --origin {params.origin} {params.joint} --out {output.html} --metrics {output.metrics}"
        " --figure {output.figure} --summary {output.summary} --curve {output.curve}"
        " --timing {output.timing} --code {params.code:q} --keep {resources.keep:q}"
        " > {log} 2>&1 || failed {log}"


rule estimators:
    """Bias and variance of the estimators (enumerated tasks)."""
    input:
        prompts=of_origin("data/runs/{run}/items/test.parquet"),
        base=of_origin("data/runs/{run}/round_000/policy"),
        policy=policy(last_round),
    output:
        summary="data/runs/{run}/estimators.json",
        timing="data/runs/{run}/timings/estimators.json",
    log:
        "data/runs/{run}/logs/estimators.log",
    resources:
        launch=FORK,
    params:
        settings=settings("estimators"),
        code=code("estimators"),
    shell:
        "{resources.launch} pipeline.stages.estimators --settings {params.settings:q}"
        " --items {input.prompts} --base {input.base} --policy {input.policy}"
        " --out {output.summary} --timing {output.timing} --code {params.code:q}"
        " > {log} 2>&1 || failed {log}"


rule compare:
    """A suite's report."""
    input:
        unpack(lambda wildcards: wf.suite_inputs(SUITES[wildcards.suite], RUNS)),
    output:
        table="data/results/{suite}.json",
        markdown="data/results/{suite}.md",
        figure="data/results/{suite}.svg",
        html=report("data/results/{suite}.html", category="Suites"),
        timing="data/results/timings/{suite}.json",
    log:
        "data/results/logs/{suite}.log",
    resources:
        launch=FORK,
    params:
        code=lambda wildcards: made_with.code_and_suite(PARAMS.suites[wildcards.suite]),
        published=lambda wildcards: json.dumps(PARAMS.suites[wildcards.suite].published),
    shell:
        "{resources.launch} pipeline.stages.compare --settings '{{}}' --metrics {input.metrics}"
        " --joints {input.joints} --estimators {input.estimators} --published {params.published:q}"
        " --out {output.table} --markdown {output.markdown} --figure {output.figure}"
        " --html {output.html} --timing {output.timing} --code {params.code:q}"
        " > {log} 2>&1 || failed {log}"

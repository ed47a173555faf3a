# Both commands of README.md's quick start, on CPUs:
#   docker build -t dam . && docker run -v "$PWD/data:/work/data" dam     # the default run; its report is in data/runs/
#   docker run dam .venv/bin/python -m pytest -n 2 --dist loadfile        # the tests
FROM python:3.11-slim
# pycosat, which reasoning-gym needs, is compiled when it is installed.
RUN apt-get update && apt-get install -y --no-install-recommends gcc git libc6-dev tini && rm -rf /var/lib/apt/lists/*
WORKDIR /work
COPY . .
# With this index pip takes PyTorch's CPU build; the other one holds gigabytes of CUDA.
RUN python3 -m venv .venv \
    && .venv/bin/pip install -q --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -e '.[test]'
# The first process of a container gets its signals and must wait for orphans, which neither Snakemake nor pytest does.
ENTRYPOINT ["tini", "--"]
CMD [".venv/bin/snakemake", "--cores", "2"]

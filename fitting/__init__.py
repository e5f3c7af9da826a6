"""Mathematics on measurement tables: laws, fits, intervals and forecasts.

The package imports nothing of ladder_jax and needs no accelerator: it works on a CSV from any
source.  All arithmetic is float64, scoped with `jax.enable_x64`.
"""

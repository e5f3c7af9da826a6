"""Mathematics on measurement tables: laws, fits, intervals and forecasts.

Imports nothing of ladder_jax and needs no accelerator: it works on anybody's CSV.  All
arithmetic is float64, scoped with `jax.enable_x64`.
"""

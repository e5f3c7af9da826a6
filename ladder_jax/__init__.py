"""ladder_jax: train, score and measure ladders of small language models.

Data flows one way: a `Ladder` gives `RunConfig`s, training gives checkpoints, evaluation gives a
score store, `measure` gives one table, and the package `fitting` forecasts from that table.
"""

__version__ = "0.1.0"

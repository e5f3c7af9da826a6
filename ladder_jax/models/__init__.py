"""Models and their exact counts.

Shape suffixes, used throughout: B batch, L length, S key length, D model, H heads, G key/value
heads, K head dimension, F feed-forward, V vocabulary, N layers, C choices.
"""

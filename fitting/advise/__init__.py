"""Advice on which run to train next."""

"""Analyses on which the choices in `fitting` are based."""

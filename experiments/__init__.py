"""Experiments: one plain file per question; `python -m experiments` lists them."""

"""Experiments: one place per question, NAME.py or NAME/; `python -m experiments` lists them."""

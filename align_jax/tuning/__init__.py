"""Choosing hyper-parameters, and what the choice gave."""

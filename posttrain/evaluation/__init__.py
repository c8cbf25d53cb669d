"""Evaluation with the same tasks and engines as training."""

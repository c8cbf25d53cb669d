"""Reward models: loaded, trained or served elsewhere, ensembled, and used token by token."""

"""Rollout engines: requests in, rollouts out in the order they finish."""

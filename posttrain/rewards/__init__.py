"""Rewards: how good is a completion? One protocol, composed in YAML."""

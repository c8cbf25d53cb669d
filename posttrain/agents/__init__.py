"""Environments that a policy acts in, turn by turn, and the search for good and bad ways through them."""

"""Rewards that a server gives, and the clients of HTTP servers."""

"""A language model that judges answers: at an endpoint, in an engine, or the policy itself."""

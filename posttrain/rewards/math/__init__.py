"""Mathematical answers: found in a completion, parsed, and compared."""

"""Rows to examples, examples to token ids, and the order in which they are seen."""

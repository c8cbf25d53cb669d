"""Worker processes with a time limit for what may hang or crash."""

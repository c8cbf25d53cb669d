"""What a job needs of GPUs: memory by part, the time of a step by phase, and the layout that fits and is fastest."""

"""The update: packing, backward passes, checkpoints and the run's log."""

"""Training: the loop, and the configuration, optimizer, schedule and checkpoints of a run."""

"""The loop and what it stands on: the run's configuration, optimiser, schedule, checkpoints."""

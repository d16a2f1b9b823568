"""Checkpoints in the layouts of everybody who publishes them, to and from ours."""

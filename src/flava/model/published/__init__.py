"""Checkpoints as others publish them, to and from ours: one module for each family of layouts."""

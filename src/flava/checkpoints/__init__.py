"""Checkpoints: published models in the layouts of other libraries, converted to ours and back."""

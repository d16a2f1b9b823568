"""Classifiers on top of pretrained encoders: fine-tuned end to end, or as a linear probe."""

"""Classifiers of one's own data and of the suite's: fine-tuned, probed, applied."""

"""Held-out data and a model -> figures beside their baselines, and a report to read them in."""

"""Measures flava beside the published implementations, on the same weights, inputs and precision.

``make bench`` runs everything; ``python -m benchmarks --only training`` runs one group.
"""

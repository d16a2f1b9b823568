"""Ours beside the published implementations: the same weights, inputs and precision, in turns.

``make bench`` runs all of it; ``python -m benchmarks --only steps`` a part.
"""

"""Evaluation of frozen models: retrieval, zero-shot classes, linear probes, masked prediction."""

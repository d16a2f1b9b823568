"""Estimates what a run needs before it is started: memory, operations, communication and days."""

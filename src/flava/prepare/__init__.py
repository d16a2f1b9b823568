"""Builds shards for training from published data sets and from users' own data."""

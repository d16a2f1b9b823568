"""The steps of `scripts/build_corpus.py`, one file each."""

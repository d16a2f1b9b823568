"""FLAVA: one model for images, texts and both together."""

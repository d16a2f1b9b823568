"""What a user calls: a loaded model, and any number of images and texts through it."""

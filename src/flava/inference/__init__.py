"""What a user calls: models that are loaded, and what passes through them."""

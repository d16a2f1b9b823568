"""Uses trained models: loading, encoding, classification, matching, search and export."""

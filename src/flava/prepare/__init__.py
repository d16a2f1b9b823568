"""Published data, and one's own, to shards that train."""

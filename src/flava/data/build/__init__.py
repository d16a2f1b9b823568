"""The paper's data: files as their publishers give them -> shards that train."""

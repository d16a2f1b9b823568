"""From published data sets, and users' own data, to shards that are trained on."""

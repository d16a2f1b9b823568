"""Tools that the other packages use: batches, ranks, files, processes, progress, precision."""

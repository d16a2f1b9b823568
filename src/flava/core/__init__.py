"""What every floor above may use: batches, ranks, files, processes, progress, precision."""

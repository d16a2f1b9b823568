"""The comparison of Table C.1 as one command: trials and statistics."""

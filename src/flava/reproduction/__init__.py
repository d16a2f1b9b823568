"""`flava reproduce`: trains, evaluates and compares all columns of Table C.1 at small scale."""

"""The paper's evaluation suite: the 41 figures of a column of Table C.1, from local data sets."""

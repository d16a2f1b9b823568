"""The paper's 41 figures, from the data sets as people have them on disk: Table C.1, a column."""

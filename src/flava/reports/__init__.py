"""Reports: the pages, charts and tables that show the results of runs, models and data."""

"""Every page, chart and table that people look at."""

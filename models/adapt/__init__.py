"""Any other transformer, cut into pieces by running it once."""

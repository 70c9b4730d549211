"""The command line: it owns every side effect and calls the core."""

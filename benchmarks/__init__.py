"""Side-by-side measurements; every module is a command."""

"""The command line: it owns every side effect and calls the core."""

try:
    import pure.overwritten  # noqa: F401
except ImportError as _error:
    raise SystemExit(f"error: {_error}") from None

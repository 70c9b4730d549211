"""The server: HTTP in front of one engine thread that owns the pipeline and the device."""

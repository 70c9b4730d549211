"""The server: the application in this process, and real processes with real clients."""

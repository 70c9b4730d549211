"""What the command line and the server share: from a checkpoint and a request to pixels and reports."""

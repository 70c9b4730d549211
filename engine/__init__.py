"""What the command line and the server share: from a checkpoint and a request to pixels and reports."""

import pure.overwritten  # noqa: F401  (says so where another package has replaced this one)

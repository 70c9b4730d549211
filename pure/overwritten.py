"""Importing this fails where another package has written over this one.

PyPI has an unrelated distribution named `pure`; installed after puredit, its `pure/__init__.py` replaces ours. The
rooms of the package import this module first.
"""

import sys

_FOUND = sys.modules["pure"]
if getattr(_FOUND, "_MODULES", None) is None:
    raise ImportError(
        "another package named `pure` was installed over puredit: "
        f"{getattr(_FOUND, '__file__', 'pure')} is not puredit's; "
        "run: pip uninstall --yes pure puredit && pip install puredit"
    )

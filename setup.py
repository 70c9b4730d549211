"""The long description: the README with its links made absolute, so that it can be read outside the repository."""

import re
import runpy
from pathlib import Path

from setuptools import setup

REPOSITORY = runpy.run_path("pure/links.py")["REPOSITORY"]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")


def absolute(link: re.Match) -> str:
    """Return a link into the repository; of a picture to the file itself."""
    mark, text, target = link.groups()
    return f"{mark}[{text}]({REPOSITORY}/{'raw' if mark else 'blob'}/main/{target})"


readme = LINK.sub(absolute, Path("README.md").read_text(encoding="utf-8"))
setup(long_description=readme, long_description_content_type="text/markdown")

"""Whether the folders of this package are there: Git on Windows writes links as text files unless set up otherwise."""

import os

FOLDERS = ("transforms", "models", "distributed", "configs", "engine", "serving", "cli")
NO_LINKS = (
    "{path} is a file where a link to ../{name} should be: this checkout was made without links; clone it again with "
    "git clone -c core.symlinks=true (on Windows in developer mode), or install the wheel: pip install puredit"
)


def check_links(folder: str) -> None:
    """Refuse to work in a checkout whose links came out as text files.

    Args:
        folder: of the package.

    Raises:
        ImportError: they did.
    """
    for name in FOLDERS:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            raise ImportError(NO_LINKS.format(path=path, name=name))

"""Where the project is: the one place that its address stands in the code.

>>> document("serving.md")
'https://github.com/puredit/puredit/blob/main/docs/serving.md'
"""

REPOSITORY = "https://github.com/puredit/puredit"


def document(name: str) -> str:
    """Return the address of a document of docs/, which an installed package does not have beside it."""
    return f"{REPOSITORY}/blob/main/docs/{name}"

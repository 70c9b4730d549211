"""The laws of DESIGN.md, section 8, as functions of a situation; tests/laws/laws.py lists them."""

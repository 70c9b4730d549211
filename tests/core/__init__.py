"""Unit tests of `pure` and `pure.transforms`."""

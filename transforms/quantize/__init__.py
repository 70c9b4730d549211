"""Weights in one byte each, or half a byte."""

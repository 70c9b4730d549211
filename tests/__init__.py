"""Laws, oracles and structural tests."""

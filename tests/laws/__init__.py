"""The laws of `pure.testing` on every transform, model and way to run them."""

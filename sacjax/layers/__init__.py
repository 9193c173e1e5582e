"""Layers: pure functions and small modules, of which the encoders in `sacjax.models` consist."""

"""sacjax: self-supervised audio classification in JAX."""

__version__ = "0.1.0"

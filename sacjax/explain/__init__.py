"""Why a classifier gives a label: which part of a sound speaks for it, to look at and to hear.

explainer = Explainer(sacjax.load("runs/mine"), ["integrated_gradients"])
found = explainer(as_recordings("bark.wav", explainer.model.sample_rate), 0)
found.methods["integrated_gradients"].map.values  # [frames, bands]
"""

from sacjax.explain.explainer import METHODS, Explained, Explainer, Found, available
from sacjax.explain.maps import Grid, Map

__all__ = ["METHODS", "Explained", "Explainer", "Found", "Grid", "Map", "available"]

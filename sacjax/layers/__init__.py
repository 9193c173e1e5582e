"""The layers of which models are built."""

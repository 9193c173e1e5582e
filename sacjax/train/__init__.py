"""Training: the loop, its step, the optimizer, sharding and checkpoints."""

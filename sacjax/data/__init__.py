"""Sources, decoding, splits and pipelines: everything before the accelerator."""

"""Weights in and out of other libraries' formats.

`huggingface` reads and writes folders of transformers. A family of its architectures is one file,
such as `wav2vec2`, with a subclass of `base.Family` that is listed in `huggingface.FAMILIES`.
"""

"""A function of JAX arrays as an ONNX model: what its jaxpr says, node by node.

Of libraries, jax2onnx is the maintained one; it fits neither the Orbax nor the JAX that sacjax
needs. `translate` knows the primitives that the encoders' inference uses, and names another one.
"""

"""Networks in tests: compiled quickly, and with a context that records which keys are used."""

import jax
from flax import nnx

from sacjax.context import Context


def quick(model, function):
    """Returns `function` of the model and arrays, jitted with few of XLA's optimizations.

    Compiling is most of a test's time.
    """
    graphdef, state = nnx.split(model)
    run = lambda state, *args: function(nnx.merge(graphdef, state), *args)
    jitted = jax.jit(run, compiler_options={"xla_backend_optimization_level": "0"})
    return lambda *args: jitted(state, *args)


class Recorder(Context):
    """A training context whose key is a path of numbers; it writes down each that is used."""

    draws: list = []
    children: list = []

    def rng(self, number):
        self.draws.append((*self.key, str(number)))
        return jax.random.key(len(self.draws))

    def child(self, number):
        self.children.append((*self.key, str(number)))
        return self._replace(key=self.children[-1])


def count_draws(call):
    """Returns how many keys a training call draws; asserts that none is used twice.

    Args:
      call: builds a network and calls it with the context that it is given; it is traced alone.
    """
    Recorder.draws, Recorder.children = [], []
    nnx.eval_shape(lambda: call(Recorder(())))
    used = Recorder.draws + Recorder.children
    assert len(set(used)) == len(used)
    return len(Recorder.draws)

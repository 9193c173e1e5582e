"""Networks in tests: compiled quickly, and with a context that records which keys are used."""

import jax
from flax import nnx

from sacjax.context import Context
from sacjax.models import convnext, efficientnet, inception


def quick(model, function):
    """Returns `function` of the model and arrays, jitted with few of XLA's optimizations.

    Compiling is most of a test's time.
    """
    graphdef, state = nnx.split(model)
    run = lambda state, *args: function(nnx.merge(graphdef, state), *args)
    jitted = jax.jit(run, compiler_options={"xla_backend_optimization_level": "0"})
    return lambda *args: jitted(state, *args)


def fewer_blocks(monkeypatch):
    """Leaves deep networks of pictures a block of each kind, where any depth shows the same."""
    monkeypatch.setattr(convnext, "DEPTHS", (1,) * len(convnext.DEPTHS))
    first, second, *others = efficientnet.STAGES  # the second's last block is a residual one
    stages = (first, second, *(stage._replace(depth=1) for stage in others))
    monkeypatch.setattr(efficientnet, "STAGES", stages)
    kinds = ("Mixed_5b", "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7b")
    blocks = tuple(block for block in inception.BLOCKS if block.name in kinds)
    monkeypatch.setattr(inception, "BLOCKS", blocks)


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

"""What a train step costs, here and on machines that are not here.

`flops` counts operations and `topology` knows machines. `step` compiles a stage for one of them,
`choose` picks a mesh and `table` prints: they build on `sacjax.train`, which itself counts with
`flops`, so they are imported by their own names: `from sacjax.plan.choose import choose`.
"""

from sacjax.plan.flops import of_gradient, of_jaxpr, peak
from sacjax.plan.topology import Chip, Topology, find_topology

__all__ = ["Chip", "Topology", "find_topology", "of_gradient", "of_jaxpr", "peak"]

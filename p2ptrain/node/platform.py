"""What a node stands on: the bytes between machines, the compute process, and who stops it.

A node of this machine takes the defaults. The simulator of whole nodes (simnet/whole.py) has
others: byte streams in memory, and compute processes whose time is the simulated one. All above
them is the same code.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from p2ptrain.node.compute_process import ComputeProcess, StartWorker
from p2ptrain.node.signals import stop_on_signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a node stands on.

    carrier       what connections are made of, a transport in libp2p's sense; None: TCP
    start_worker  starts what computes
    stopper       runs beside the node, and calls the function that it is given when the node
                  shall finish its round and leave
    """

    carrier: Any = None
    start_worker: StartWorker = ComputeProcess.start
    stopper: Callable[[Callable[[], None]], Awaitable[None]] = stop_on_signals


THIS_MACHINE = Platform()

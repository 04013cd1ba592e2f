"""What a thousand machines would compute alike, computed once: for crowds in one process.

In a crowd every peer checks the same certificate on the same context, and finds the same context
after it. Each is a pure function of its arguments, with equal results everywhere; so the simulator
puts these in front of them while a crowd runs. Only what was found in order is kept: whatever is
refused is judged by each peer itself. Nodes do not use this: each of them checks everything.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from p2ptrain.swarm import certificates, chain
from p2ptrain.wire import codec, envelope

USERS = ("p2ptrain.", "simnet.")


@contextmanager
def shared_work() -> Iterator[None]:
    """While this lasts, machines of this process share what follows from the same arguments."""
    kept: list[tuple[Any, str, Any]] = []
    digests: dict[int, tuple[Any, Any]] = {}
    contexts: dict[Any, chain.Context] = {}
    legal: set[Any] = set()
    signed: dict[int, Any] = {}
    genuine: dict[int, Any] = {}
    real_digest, real_advance = codec.block_digest, chain.advance
    real_block, real_ballots = certificates.check_block, certificates.check_ballots
    real_signed = envelope.check_signed

    def block_digest(block: Any) -> Any:
        found = digests.get(id(block))
        if found is None or found[0] is not block:
            found = digests[id(block)] = (block, real_digest(block))
        return found[1]

    def advance(context: Any, certificate: Any, settings: Any) -> chain.Context:
        block, state = block_digest(certificate.block), certificate.state
        key = (context.block, context.view, block, certificate.view, state)
        if key not in contexts:
            contexts[key] = real_advance(context, certificate, settings)
        return contexts[key]

    def check_block(rules: Any, context: Any, block: Any, blamed: Any) -> None:
        key = (context.block, block_digest(block))
        if key not in legal:
            real_block(rules, context, block, blamed)
            legal.add(key)

    def check_ballots(rules: Any, electorate: Any, certificate: Any, sender: Any) -> None:
        if signed.get(id(certificate)) is not certificate:
            real_ballots(rules, electorate, certificate, sender)
            signed[id(certificate)] = certificate

    def check_signed(verifier: Any, swarm: Any, statement: Any, sender: Any) -> None:
        if genuine.get(id(statement)) is not statement:
            real_signed(verifier, swarm, statement, sender)
            genuine[id(statement)] = statement

    pairs = (
        (real_digest, block_digest),
        (real_advance, advance),
        (real_block, check_block),
        (real_ballots, check_ballots),
        (real_signed, check_signed),
    )
    for real, memo in pairs:
        kept += list(_replace(real, memo))
    try:
        yield
    finally:
        for module, name, real in kept:
            setattr(module, name, real)


def _replace(real: Callable[..., Any], memo: Callable[..., Any]) -> Iterator[tuple[Any, str, Any]]:
    for name, module in list(sys.modules.items()):
        if name.startswith(USERS) and getattr(module, real.__name__, None) is real:
            setattr(module, real.__name__, memo)
            yield module, real.__name__, real

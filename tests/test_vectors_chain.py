"""protocol/vectors/chain.json: what follows from certificates, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from wire_json import from_json, to_json

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.swarm.certificates import Rules, verify_certificate
from p2ptrain.swarm.chain import Context, Settings, advance, finals, genesis, proposer, round_steps
from p2ptrain.swarm.weights import factors, limit2_of_round
from p2ptrain.wire.digest import Digest
from p2ptrain.wire.envelope import Ed25519Verifier, swarm_digest

FILE = json.loads((Path(__file__).parents[1] / "protocol" / "vectors" / "chain.json").read_text())
(SWARM,) = FILE["swarm"]
SETTINGS = Settings(
    codec=4,
    shard_bytes=(2052,),
    rounds=SWARM["rounds"],
    weight_max=SWARM["weight_max"],
    norm_max2=int(SWARM["norm_max2"]),
    voter_after=SWARM["voter_after"],
    batch=SWARM["batch"],
    local_steps=SWARM["local_steps"],
    local_steps_max=SWARM["local_steps_max"],
)
RULES = Rules(swarm_digest(SWARM["swarm_id"]), Ed25519Verifier(), SETTINGS)
SENDER = SWARM["founder"]


def shown(context: Context) -> Any:
    names = ("block", "view", "rounds", "state", "beacon", "unfinal")
    found = {name: to_json(getattr(context, name), tuple[bytes, ...]) for name in names}
    found["limits"] = [str(limit2) for limit2 in context.limits]
    found["roster"] = [next(iter(to_json(member).values())) for member in context.roster]
    found["next_proposers"] = [proposer(context, context.view + i) for i in (1, 2, 3)]
    found["round_steps"] = round_steps(context, SETTINGS)
    return found


def contexts() -> list[Context]:
    """The founding block's, then one after each accepted certificate."""
    state = Digest(bytes.fromhex(SWARM["state"]))
    found = [genesis(RULES.swarm, SWARM["founder"], state)]
    for vector in FILE["accepted"]:
        found.append(advance(found[-1], from_json(vector["certificate"]), SETTINGS))
    return found


CONTEXTS = contexts()


def test_the_founding_block_has_this_context() -> None:
    assert shown(CONTEXTS[0]) == SWARM["genesis"]


@pytest.mark.parametrize("number", range(len(FILE["accepted"])))
def test_this_context_follows_from_a_certificate(number: int) -> None:
    vector, before = FILE["accepted"][number], CONTEXTS[number]
    certificate = from_json(vector["certificate"])
    verify_certificate(RULES, before, certificate, SENDER)
    assert shown(CONTEXTS[number + 1]) == vector["context"]
    assert [block.hex() for block in finals(before, certificate)] == vector["finals"]
    entries = certificate.block.entries
    if entries:
        norms2 = [entry.norm2 for entry in entries]
        limit2 = limit2_of_round(norms2, before.limits, SETTINGS.norm_max2)
        assert list(factors(entries, limit2)) == vector["factors"]


@pytest.mark.parametrize("vector", FILE["rejected"], ids=[v["name"] for v in FILE["rejected"]])
def test_a_certificate_is_refused_by_this_rule(vector: Any) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        verify_certificate(
            RULES, CONTEXTS[vector["after"]], from_json(vector["certificate"]), SENDER
        )
    assert (caught.value.peer, caught.value.rule) == (SENDER, vector["rule"])

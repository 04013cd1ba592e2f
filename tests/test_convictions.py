"""node/convictions.py: liars stay known across restarts, and are let go at once."""

from dataclasses import replace
from pathlib import Path

from averaging_stage import Stage
from test_applied import Stage as Applied
from test_applied import kernel_cache  # noqa: F401
from test_peers import IDENTITIES
from test_proofs import two_commits, two_votes
from test_round import SWARM, quiet  # noqa: F401

from p2ptrain.node.convictions import Convictions
from p2ptrain.node.machines import Machines
from p2ptrain.swarm.effects import Proof
from p2ptrain.wire.digest import digest
from p2ptrain.wire.envelope import Ed25519Signer, sign_statement
from p2ptrain.wire.limits import STRIKES_MAX
from p2ptrain.wire.messages import Contradiction, Vote


def test_proofs_survive_a_restart_and_are_checked_again(tmp_path: Path) -> None:
    stage = Stage()
    rules = stage.machine.config.rules
    a, b = stage.others[:2]
    kept = Convictions(tmp_path)
    assert kept.load(rules) == ((), "")
    kept.add(two_votes(stage, a))
    kept.add(two_commits(stage, b))
    kept.add(two_commits(stage, a))  # one a liar is enough
    assert Convictions(tmp_path).load(rules) == ((two_votes(stage, a), two_commits(stage, b)), "")


def test_a_damaged_file_of_proofs_is_set_aside_with_a_word(tmp_path: Path) -> None:
    stage = Stage()
    kept = Convictions(tmp_path)
    kept.add(two_votes(stage, stage.others[0]))
    (tmp_path / "proofs").write_bytes(b"something else")
    proofs, warning = Convictions(tmp_path).load(stage.machine.config.rules)
    assert proofs == ()
    assert "damaged" in warning
    assert Convictions(tmp_path).load(stage.machine.config.rules) == ((), "")


def test_a_proof_on_disk_that_does_not_hold_convicts_nobody(tmp_path: Path) -> None:
    stage = Stage()
    proof = two_votes(stage, stage.others[0])
    Convictions(tmp_path).add(replace(proof, second=replace(proof.second, signature=bytes(64))))
    assert Convictions(tmp_path).load(stage.machine.config.rules)[0] == ()


async def test_who_is_proven_a_liar_is_banned_and_kept_on_disk(
    quiet: tuple[Applied, Machines],  # noqa: F811
    tmp_path: Path,
) -> None:
    _, machines = quiet
    liar, config = IDENTITIES[2], machines.averaging.config
    signer = Ed25519Signer(liar.private_key)
    one, other = (
        sign_statement(signer, SWARM, Vote(1, digest("b", name), SWARM, SWARM, SWARM))
        for name in (b"one", b"other")
    )
    await machines._carry_out(Proof(one, other))
    assert machines.peers.strikes == {liar.peer_id: STRIKES_MAX}
    assert Convictions(tmp_path).load(config.rules) == ((Contradiction(one, other),), "")

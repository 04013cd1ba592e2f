"""The proofs against liars that this peer has seen in one swarm, on disk across restarts.

A proof is checked again when it is read: its bytes lay on a disk. A damaged file is set aside and
its proofs are lost, which changes no bits of the run: whoever still has them shows them again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from p2ptrain.errors import RemoteProtocolError
from p2ptrain.store.atomic import set_aside
from p2ptrain.store.durable import DurableRecord, RecordDamaged
from p2ptrain.swarm.certificates import Rules
from p2ptrain.swarm.proofs import check_proof
from p2ptrain.wire.codec import pack, unpack
from p2ptrain.wire.fields import AtMost
from p2ptrain.wire.limits import PROOFS_MAX
from p2ptrain.wire.messages import Contradiction
from p2ptrain.wire.peer_id import PeerId


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file holds, oldest first."""

    proofs: Annotated[tuple[Contradiction, ...], AtMost(PROOFS_MAX)]


class Convictions:
    """One small file in the swarm's folder."""

    def __init__(self, folder: Path) -> None:
        """Open it; it need not exist. Raises StoreError."""
        self._file = DurableRecord(folder / "proofs")
        self._proofs: dict[PeerId, Contradiction] = {}

    def load(self, rules: Rules) -> tuple[tuple[Contradiction, ...], str]:
        """The proofs that hold, oldest first, and a warning for people, or "".

        Raises StoreError if the disk refuses.
        """
        try:
            record = self._file.load()
            kept = Kept(()) if record is None else unpack(Kept, record)
            for proof in kept.proofs:
                check_proof(rules, proof, proof.first.signer)
        except (RecordDamaged, RemoteProtocolError, ValueError):
            aside = set_aside(self._file.path)
            return (), f"the proofs against liars in {aside} are damaged; others may show them"
        self._proofs = {proof.first.signer: proof for proof in kept.proofs}
        return kept.proofs, ""

    def add(self, proof: Contradiction) -> None:
        """Keep a proof that was checked; it is on the disk on return. Raises StoreError."""
        if proof.first.signer in self._proofs:
            return
        self._proofs[proof.first.signer] = proof
        while len(self._proofs) > PROOFS_MAX:
            del self._proofs[next(iter(self._proofs))]
        self._file.save(pack(Kept(tuple(self._proofs.values()))))

"""Every error p2ptrain raises. Each says who is at fault, for that decides what is done."""


class P2PTrainError(Exception):
    """Parent of all p2ptrain errors; catch this at the command line only."""


class ConfigError(P2PTrainError):
    """The user asked for something impossible: say what happened, why, and what to do."""


class StoreError(P2PTrainError):
    """The disk failed us: full, unreadable, or its bytes are not the ones that were written."""


class DeviceError(P2PTrainError):
    """No OpenCL device can do the work: none found, its self-test failed, or its process died."""


class RemoteProtocolError(P2PTrainError):
    """A peer broke the protocol. Strike the peer; the round goes on.

    peer   who sent it
    rule   the section of protocol/ that was broken, e.g. "averaging 5.4"
    """

    def __init__(self, peer: str, rule: str, detail: str) -> None:
        super().__init__(f"{peer} broke {rule}: {detail}")
        self.peer = peer
        self.rule = rule
        self.detail = detail


class LocalProtocolError(P2PTrainError):
    """We called a machine out of turn: a bug of ours. Never caught."""

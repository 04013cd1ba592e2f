"""Which messages travel with data, and which by the lane for what others wait for."""

from p2ptrain.wire.messages import (
    Blob,
    Commit,
    Headers,
    Message,
    Piece,
    ReducedPiece,
    Statement,
    StatePiece,
)

BULK = (Piece, StatePiece, ReducedPiece, Blob, Headers)


def travels_with_data(message: Message) -> bool:
    """Whether a message takes the bulk lane.

    A Commit does although it is small: its pieces follow it at once, and one that overtook it
    would be refused (averaging 3.1) and come again only with the next retry.
    """
    if isinstance(message, Statement):
        return isinstance(message.signed.statement, Commit)
    return isinstance(message, BULK)

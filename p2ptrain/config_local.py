"""What is local to one machine: the folders of this peer, and the swarm links people paste.

Folders follow the XDG base directory specification; P2PTRAIN_HOME or --home puts all four under
one folder, so that several peers can live on one machine.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote

from p2ptrain.errors import ConfigError
from p2ptrain.wire.cid import Cid, parse_cid
from p2ptrain.wire.limits import ADDRESS_CHARS_MAX, LINK_CHARS_MAX, LINK_PEERS_MAX

LINK_SCHEME = "p2ptrain:"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Where this peer keeps its things. Nothing is created by making one.

    config_path  identity and settings: keep it, back it up
    data_path    content-addressed blocks: data sets, recipes; can be fetched again
    state_path   checkpoints, transcripts, votes of each swarm: keep it
    cache_path   compiled kernels, tuning; can be deleted at any time
    """

    config_path: Path
    data_path: Path
    state_path: Path
    cache_path: Path

    @property
    def identity_path(self) -> Path:
        """The file of the Ed25519 key."""
        return self.config_path / "identity"

    @property
    def blocks_path(self) -> Path:
        """The folder of the block store."""
        return self.data_path / "blocks"

    @property
    def kernels_path(self) -> Path:
        """The folder of compiled kernels."""
        return self.cache_path / "kernels"

    @property
    def address_book_path(self) -> Path:
        """The file of the AddressBook; can be deleted at any time."""
        return self.state_path / "address_book.sqlite"

    def swarm_path(self, swarm_id: Cid) -> Path:
        """The folder of one swarm's checkpoints, transcript and votes."""
        return self.state_path / "swarms" / swarm_id

    def checkpoints_path(self, swarm_id: Cid) -> Path:
        """The folder of one swarm's CheckpointStore."""
        return self.swarm_path(swarm_id) / "checkpoints"

    def transcript_path(self, swarm_id: Cid) -> Path:
        """The file of one swarm's Transcript."""
        return self.swarm_path(swarm_id) / "transcript.sqlite"


def node_config(
    home: Path | None = None, environment: Mapping[str, str] = os.environ
) -> NodeConfig:
    """The folders for --home, else P2PTRAIN_HOME, else XDG. Raises ConfigError on relative XDG."""
    root = home or (Path(named) if (named := environment.get("P2PTRAIN_HOME")) else None)
    if root is not None:
        root = root.expanduser().absolute()
        return NodeConfig(root / "config", root / "data", root / "state", root / "cache")
    return NodeConfig(
        _xdg(environment, "XDG_CONFIG_HOME", ".config"),
        _xdg(environment, "XDG_DATA_HOME", ".local/share"),
        _xdg(environment, "XDG_STATE_HOME", ".local/state"),
        _xdg(environment, "XDG_CACHE_HOME", ".cache"),
    )


def _xdg(environment: Mapping[str, str], variable: str, default: str) -> Path:
    named = environment.get(variable)
    # The specification says to ignore relative paths: they would move with the working folder.
    if named and Path(named).is_absolute():
        return Path(named) / "p2ptrain"
    user = environment.get("HOME")
    if not user:
        raise ConfigError(
            f"neither {variable} nor HOME is set, so there is no folder to keep things in.\n"
            "Name one: --home DIR or P2PTRAIN_HOME=DIR"
        )
    return Path(user) / default / "p2ptrain"


@dataclass(frozen=True, slots=True)
class SwarmLink:
    """What people share to invite others.

    swarm_id  CID of the recipe
    peers     multiaddrs of peers to ask first, with /p2p/<peer id>; may be empty
    """

    swarm_id: Cid
    peers: tuple[str, ...] = ()

    def __str__(self) -> str:
        query = "&".join("peer=" + quote(peer, safe="/:") for peer in self.peers)
        return f"{LINK_SCHEME}{self.swarm_id}" + (f"?{query}" if query else "")


def parse_link(text: str) -> SwarmLink:
    """Read a swarm link, or a bare swarm id. Raises ConfigError saying what is wrong with it."""
    text = text.strip()
    if len(text) > LINK_CHARS_MAX:
        raise _bad_link(f"it is longer than {LINK_CHARS_MAX} characters")
    identifier, _, query = text.removeprefix(LINK_SCHEME).partition("?")
    try:
        swarm_id = parse_cid(identifier)
        pairs = (
            parse_qsl(query, strict_parsing=True, max_num_fields=LINK_PEERS_MAX) if query else []
        )
    except ValueError as error:
        raise _bad_link(str(error)) from None
    for key, value in pairs:
        if key != "peer":
            raise _bad_link(f"{key[:40]!r} is not a part of a link; only peer=ADDRESS is")
        _check_address(value)
    return SwarmLink(swarm_id, tuple(value for _, value in pairs))


def _check_address(address: str) -> None:
    if len(address) > ADDRESS_CHARS_MAX:
        raise _bad_link(f"an address is longer than {ADDRESS_CHARS_MAX} characters")
    if not address.startswith("/") or not address.isascii() or not address.isprintable():
        raise _bad_link(
            f"{address[:40]!r} is not an address such as /ip4/192.0.2.1/tcp/4001/p2p/.."
        )


def _bad_link(why: str) -> ConfigError:
    return ConfigError(
        f"this swarm link cannot be used: {why}.\n"
        "A link is one line: p2ptrain:bafkrei...?peer=/ip4/.../tcp/.../p2p/12D3Koo... "
        "Copy it again, or use a recipe file."
    )

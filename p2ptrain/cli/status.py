"""`p2ptrain status`: what the node of this home does, and if it waits, for what and how long."""

import json

import typer
from rich.console import Console
from rich.table import Table

from p2ptrain.cli.options import Home, Json
from p2ptrain.config_local import node_config
from p2ptrain.node.local_client import NodeSilent, ask
from p2ptrain.node.status import AnnouncedStatus, PeerStatus, ProcessStatus, Status, parse_status

NAME_CHARS = 12
PEER_CHARS = 12  # of an id, from its end: all begin alike
DIGEST_CHARS = 12


def command(home: Home = None, as_json: Json = False) -> None:
    """Show what the p2ptrain that runs in this home does (exit code 3: none runs there)."""
    tree = ask(node_config(home).state_path, "status")
    if as_json:
        typer.echo(json.dumps(tree))
        return
    try:
        status = parse_status(tree)
    except ValueError as error:
        raise NodeSilent(
            f"the node's status cannot be read: {error}.\n"
            "It is of another version of p2ptrain: --json prints it as it came"
        ) from error
    show(status, Console(highlight=False, markup=False))


def show(status: Status, console: Console) -> None:
    """Print a status for people."""
    for name, value in _facts(status):
        console.print(f"{name:<{NAME_CHARS}}", style="bold", end="")
        console.print(value, soft_wrap=True)  # links are to be copied whole
    connected = [peer for peer in status.peers if peer.connected]
    if connected:
        console.print()
        console.print(_connected(connected))
    notices = [f"{_age(n.age_s)} ago, {n.kind}: {n.text}" for n in status.notices]
    for title, lines in (("peers", _remarks(status)), ("happened", notices)):
        for number, line in enumerate(lines):
            if number == 0:
                console.print()
            console.print(f"{title if number == 0 else '':<{NAME_CHARS}}", style="bold", end="")
            console.print(line, soft_wrap=True)


def _facts(status: Status) -> list[tuple[str, str]]:
    """Everything but the peers, a line each."""
    facts: list[tuple[str, str]] = [
        ("peer", status.peer),
        ("node", f"{status.command}, {status.phase}, up {_age(status.uptime_s)}"),
        ("version", status.version),
    ]
    facts += [
        ("listens at" if number == 0 else "", address)
        for number, address in enumerate(status.addresses)
    ]
    if status.swarm is not None:
        facts.append(("swarm", f"{status.swarm.swarm} ({status.swarm.name})"))
        facts.append(("link", status.swarm.link))
    facts += _progress(status)
    waits = [
        f"{wait.what} ({_age(wait.age_s)} of {_age(wait.limit_s)})"
        if wait.limit_s is not None
        else f"{wait.what} ({_age(wait.age_s)})"
        for wait in status.waits
    ]
    facts += [("waits for" if i == 0 else "", wait) for i, wait in enumerate(waits or ["nothing"])]
    if status.announced is not None:
        facts.append(("swarm says", _announced(status.announced)))
    facts.append(("rates", _rates(status)))
    facts.append(("process", _process(status.process)))
    if status.compute is not None:
        process = status.compute.process
        facts.append(
            (
                "compute",
                f"{status.compute.device or 'no device yet'}; "
                f"{_process(process) if process is not None else 'no process'}; "
                f"{status.compute.restarts} restarts",
            )
        )
    return facts


def _progress(status: Status) -> list[tuple[str, str]]:
    """The chain, the agreement on its next block, and how good the network is."""
    facts: list[tuple[str, str]] = []
    chain, agreement, last = status.chain, status.agreement, status.last_round
    if chain is not None:
        rounds = f" of {status.swarm.rounds}" if status.swarm is not None else ""
        branch = f"branch {chain.branch_depth}" if chain.branch_depth else "trunk"
        role = "a voter" if chain.voter else "a member" if chain.member else "no member"
        behind = chain.height - (chain.applied_height or 0)
        lag = f", our state {behind} behind" if behind else ""
        voters = sum(member.voter for member in chain.members)
        facts += [
            ("round", f"{chain.round}{rounds}, height {chain.height}, {branch}{lag}"),
            ("roster", f"{len(chain.members)} members, {voters} of them vote; this peer is {role}"),
            ("block", f"{chain.block[:DIGEST_CHARS]}...  state {chain.state[:DIGEST_CHARS]}..."),
        ]
    if agreement is not None:
        facts.append(
            (
                "agreement",
                f"{agreement.phase}, view {agreement.view}, proposer {short(agreement.proposer)}, "
                f"quorum {agreement.quorum} of {agreement.voters}",
            )
        )
    if last is not None:
        included = "with our work" if last.included else "without our work"
        facts.append(
            (
                "last round",
                f"{last.round}, {_age(last.age_s)} ago, took {_age(last.seconds)}: "
                f"loss {_figure(last.loss)}, accuracy {_figure(last.accuracy)}"
                f"{_as_of(last.evaluated_round, last.round)}; "
                f"{last.contributions} contributions, {included}",
            )
        )
    return facts


def _announced(announced: AnnouncedStatus) -> str:
    """How many peers there are, how far and fast, and whether all have the same states."""
    seen = announced.sightings
    if not seen:
        return "nobody else has announced itself"
    speed = sum(each.samples_s for each in seen)
    silent = sum(each.silent for each in seen)
    rounds = sorted({each.round for each in seen})
    far = f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"
    return (
        f"{len(seen)} others at {far}, {speed:,.0f} samples/s of training"
        f"{f', {silent} silent' if silent else ''}; {announced.text}"
    )


def _rates(status: Status) -> str:
    rates = status.rates
    traffic = f"{_bytes(rates.sent_bytes_s)}/s out, {_bytes(rates.received_bytes_s)}/s in"
    if rates.rounds_s is None or rates.samples_s is None:
        return traffic
    return f"{rates.samples_s:,.0f} samples/s, {rates.rounds_s:.3g} rounds/s, {traffic}"


def _connected(peers: list[PeerStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("peer", "is", "connected", "rtt", "quiet"):
        table.add_column(name, no_wrap=True)
    for name in ("sent", "received", "out/s", "in/s"):
        table.add_column(name, no_wrap=True, justify="right")
    for peer in peers:
        table.add_row(
            short(peer.peer),
            _role(peer),
            _age(peer.connected_s),
            f"{peer.rtt_s * 1e3:.1f} ms" if peer.rtt_s is not None else "",
            _age(peer.quiet_s) if peer.quiet_s is not None else "",
            _bytes(peer.bytes_sent),
            _bytes(peer.bytes_received),
            _bytes(peer.sent_bytes_s),
            _bytes(peer.received_bytes_s),
        )
    return table


def _remarks(status: Status) -> list[str]:
    """What is unusual about a peer: it is not connected, was struck, or runs something else."""
    remarks: list[str] = []
    for peer in status.peers:
        if not peer.connected:
            remarks.append(f"{short(peer.peer)} is not connected; {_dial(peer)}")
        if peer.strikes:
            remarks.append(f"{short(peer.peer)} broke the protocol {peer.strikes} times")
        if peer.agent not in (None, f"p2ptrain/{status.version}"):
            remarks.append(f"{short(peer.peer)} runs {peer.agent}")
    return remarks


def _role(peer: PeerStatus) -> str:
    if peer.voter:
        return "voter"
    if peer.member:
        return "member"
    return "seeder" if peer.connected and not peer.in_swarm else "stranger"


def _dial(peer: PeerStatus) -> str:
    if peer.dial is None or peer.dial.next_try_s is None:
        return "not dialled"
    at = peer.dial.next_try_s
    when = f"next try in {_age(at)}" if at else "being dialled"
    return f"{when}; the last failed: {peer.dial.last_error}" if peer.dial.last_error else when


def short(peer: str) -> str:
    """A peer id as tables have room for it."""
    return f"...{peer[-PEER_CHARS:]}"


def _process(process: ProcessStatus) -> str:
    memory = _bytes(process.rss_bytes) if process.rss_bytes is not None else "gone"
    return f"{process.pid}, {memory}, {process.open_fds or 0} open files"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _as_of(evaluated: int, last: int) -> str:
    return "" if evaluated == last else f" (of round {evaluated})"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _age(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"

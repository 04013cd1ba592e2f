"""How fast frames of 1 MiB go from one process to another, beside a bare TCP socket.

    python -m benchmarks.transport [--megabytes 400]

The floor is trio's SocketStream on the same loopback, measured in the same run: read the result as
a ratio, for the machine's load moves both. CPU seconds are per 100 MB (10^8 bytes), both sides.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from p2ptrain.net.identity import Identity, identity_of
from p2ptrain.net.libp2p_host import open_host
from p2ptrain.net.transport import Bounds, Connected, Etiquette, Frame
from p2ptrain.wire.limits import CHUNK_BYTES_MAX

SENDER, RECEIVER = (identity_of(bytes([n]) * 32) for n in (1, 2))
IN_FLIGHT_MAX = 32  # chunks: what stands in here for the credits of a real exchange
START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one transfer took, at its receiver and (CPU only) its sender."""

    seconds: float
    cpu_receiver_s: float
    cpu_sender_s: float


def etiquette() -> Etiquette:
    """No budget: loopback is faster than any flood that the protocol allows."""
    bounds = replace(Bounds(), bytes_per_peer_per_s=1e12, bytes_per_peer_burst=1e12)
    return Etiquette(
        hello=lambda: b"benchmark", judge_hello=lambda peer, hello: None, bounds=bounds
    )


def cpu_s() -> float:
    """User and system time of this process so far, seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# --- the sending process -----------------------------------------------------------------------


async def send_over_libp2p(address: str, chunks: int) -> float:
    """Dial, send, and wait for the receiver's word; returns CPU seconds of the transfer."""
    async with open_host(SENDER, listen=[], etiquette=etiquette()) as transport:
        receiver = await transport.dial(address, START_TIMEOUT_S)
        assert isinstance(await transport.receive(), Connected)
        chunk, sent, confirmed = bytes(CHUNK_BYTES_MAX), 0, 0
        started_cpu = cpu_s()
        while confirmed < chunks:
            while sent < chunks and sent - confirmed < IN_FLIGHT_MAX:
                assert transport.send(receiver, chunk, bulk=True)
                sent += 1
            assert isinstance(await transport.receive(), Frame)
            confirmed += 1
        return cpu_s() - started_cpu


async def send_over_tcp(address: str, chunks: int) -> float:
    """The same over a bare socket; the receiver closes when it has all."""
    stream = await trio.open_tcp_stream("127.0.0.1", int(address))
    chunk = bytes(CHUNK_BYTES_MAX)
    started_cpu = cpu_s()
    for _ in range(chunks):
        await stream.send_all(chunk)
    await stream.receive_some()
    return cpu_s() - started_cpu


# --- the receiving process -----------------------------------------------------------------------


async def receive_over_libp2p(chunks: int) -> Figures:
    """Receive all chunks, confirming each by an empty control frame."""
    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with open_host(RECEIVER, listen=listen, etiquette=etiquette()) as transport:
        with start_sender("libp2p", transport.addresses[0], chunks) as sender:
            assert isinstance(await transport.receive(), Connected)
            started, started_cpu = time.perf_counter(), cpu_s()
            for _ in range(chunks):
                event = await transport.receive()
                assert isinstance(event, Frame)
                transport.send(event.peer, b"")
            seconds, cpu = time.perf_counter() - started, cpu_s() - started_cpu
            while isinstance(await transport.receive(), Frame):
                pass  # until the sender says goodbye
            return Figures(seconds, cpu, float(sender.communicate(timeout=START_TIMEOUT_S)[0]))


async def receive_over_tcp(chunks: int) -> Figures:
    """The floor: the same bytes through one socket."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with start_sender("tcp", str(listener.socket.getsockname()[1]), chunks) as sender:
        async with await listener.accept() as stream:
            started, started_cpu, left = time.perf_counter(), cpu_s(), chunks * CHUNK_BYTES_MAX
            while left:
                left -= len(await stream.receive_some(CHUNK_BYTES_MAX))
            seconds, cpu = time.perf_counter() - started, cpu_s() - started_cpu
        await listener.aclose()
        return Figures(seconds, cpu, float(sender.communicate(timeout=START_TIMEOUT_S)[0]))


def start_sender(kind: str, address: str, chunks: int) -> "subprocess.Popen[str]":
    """Run this module again, as the other process."""
    command = [sys.executable, "-m", "benchmarks.transport", "--send", kind, address, str(chunks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def connect_seconds(turns: int = 7) -> float:
    """Median time from dial to greeted, both hosts in this process, seconds.

    libp2p counts a closed connection for a moment more, and admits 8 a peer: hence 7 turns.
    """

    def host(identity: Identity, *listen: str):  # type: ignore[no-untyped-def]
        return open_host(identity, listen=listen, etiquette=etiquette())

    taken = []
    async with host(RECEIVER, "/ip4/127.0.0.1/tcp/0") as receiver, host(SENDER) as sender:
        for _ in range(turns):
            started = time.perf_counter()
            await sender.dial(receiver.addresses[0], START_TIMEOUT_S)
            taken.append(time.perf_counter() - started)
            await sender.disconnect(receiver.me, "again")
    return sorted(taken)[turns // 2]


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--send", nargs=3, metavar=("KIND", "ADDRESS", "CHUNKS"))
    arguments = parser.parse_args()
    if arguments.send:
        kind, address, chunks = arguments.send
        send = send_over_tcp if kind == "tcp" else send_over_libp2p
        sys.stdout.write(f"{trio.run(send, address, int(chunks))}\n")
        return
    chunks = max(1, arguments.megabytes * 10**6 // CHUNK_BYTES_MAX)
    size = chunks * CHUNK_BYTES_MAX
    receivers: dict[str, Callable[[int], Awaitable[Figures]]] = {
        "raw TCP (floor)": receive_over_tcp,
        "p2ptrain frames": receive_over_libp2p,
    }
    rates = []
    for name, receive in receivers.items():
        figures = trio.run(receive, chunks)
        rates.append(size / figures.seconds / 1e6)
        per_100_mb = 1e8 / size
        sys.stdout.write(
            f"{name}: {rates[-1]:7.1f} MB/s, CPU per 100 MB "
            f"{figures.cpu_sender_s * per_100_mb:.3f} s sending, "
            f"{figures.cpu_receiver_s * per_100_mb:.3f} s receiving\n"
        )
    sys.stdout.write(f"ratio: {rates[1] / rates[0]:.3f}\n")
    sys.stdout.write(f"connect: {trio.run(connect_seconds) * 1e3:.1f} ms\n")


if __name__ == "__main__":
    main()

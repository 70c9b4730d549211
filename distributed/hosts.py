"""Several hosts that run one job: they meet, agree that they do the same, and tell each other how it ends.

Each host watches its own processes (`launch.run`). The first one listens at an address that all were
given; every other one holds a connection to it for as long as the job runs. What goes over it are short
JSON objects: who joins, where the ranks meet, that a host is done, or what went wrong. A connection that
breaks is a host that is lost.
"""

import contextlib
import fcntl
import json
import select
import socket
import struct
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import attrs

from pure.checks import cut

__all__ = ["Host", "Hosts", "HostsDiffer", "HostsError", "Meeting", "meet"]

JOIN = 300.0  # seconds that hosts wait for each other to start, by default
AGAIN = 0.2  # seconds between attempts to reach the first host
REPLY = 10  # seconds for a message that has begun
ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}
"""A host whose network is gone is lost after 25 seconds."""
LONGEST = 2**20  # bytes of a message
SIOCGIFADDR = 0x8915  # of Linux: the address of an interface


class HostsError(RuntimeError):
    """The hosts of a job cannot work together, or one of them failed."""


class HostsDiffer(HostsError):
    """The hosts of a job were not started alike."""


@attrs.frozen(kw_only=True)
class Hosts:
    """The hosts of one job, as one of them sees it.

    Attributes:
        count: how many there are.
        index: which one this is, from 0.
        address: (name, port) where the first one listens.
        agreed: what must be the same on all, by what it is called: flags and versions.
        patience: seconds that hosts wait for each other to start.
    """

    count: int
    index: int
    address: tuple[str, int]
    agreed: Mapping[str, str] = attrs.field(factory=dict)
    patience: float = JOIN

    @property
    def place(self) -> str:
        """The address as it is written."""
        name, port = self.address
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


@attrs.frozen(eq=False)
class Host:
    """Another host, and the connection to it."""

    index: int
    report: Connection

    def send(self, **message: Any) -> None:
        """Send a message; a host that is gone gets none."""
        with contextlib.suppress(OSError):
            self.report.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """Return its next message, None if it is gone or says something else than messages."""
        try:
            message = json.loads(self.report.recv_bytes(LONGEST))
        except (EOFError, OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None


@attrs.frozen(kw_only=True, eq=False)
class Meeting:
    """Hosts that have met.

    Attributes:
        hosts: that this host is connected to: the first one, or for that one all others.
        ranks: URL where the ranks meet.
        interface: of the network between the hosts; None where it is not known.
    """

    hosts: tuple[Host, ...]
    ranks: str
    interface: str | None

    def close(self) -> None:
        """End the connections."""
        for host in self.hosts:
            host.report.close()


def meet(hosts: Hosts, processes: int) -> Meeting:
    """Wait until all hosts are there and agree.

    Args:
        hosts: of the job.
        processes: on all hosts together.

    Raises:
        HostsDiffer: they were started with other flags, versions or numbers.
        HostsError: the address cannot be used, or hosts are missing after `patience` seconds.
    """
    return _gather(hosts, processes) if hosts.index == 0 else _join(hosts, processes)


# ------------------------------------------------------------------------------ the first host


def _gather(hosts: Hosts, processes: int) -> Meeting:
    until = time.monotonic() + hosts.patience
    there: dict[int, Host] = {}
    with _listen(hosts) as listening:
        try:
            while len(there) < hosts.count - 1:
                host = _admit(hosts, processes, listening, until, there)
                there |= {} if host is None else {host.index: host}
            local = _local_address(there[1].report)
            ranks = f"tcp://{hosts.place.rpartition(':')[0]}:{_free_port(local)}"
        except HostsError as error:
            for host in there.values():
                host.send(refused=str(error), differ=isinstance(error, HostsDiffer))
                host.report.close()
            raise
    for host in there.values():
        host.send(ranks=ranks)
    return Meeting(hosts=tuple(there[index] for index in sorted(there)), ranks=ranks, interface=_interface(local))


def _listen(hosts: Hosts) -> socket.socket:
    name, port = hosts.address
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise HostsError(f"the address {hosts.place} is unknown: {error}") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(hosts.count)
    except OSError as error:
        taken.close()
        raise HostsError(
            f"host 0 cannot listen at {hosts.place}: {error.strerror or error}; give an address of host 0 itself and a "
            "free port to all hosts"
        ) from error
    return taken


def _admit(
    hosts: Hosts, processes: int, listening: socket.socket, until: float, there: Mapping[int, Host]
) -> Host | None:
    """Wait for the next host; None where somebody else came.

    Raises:
        HostsDiffer: it was not started like this one; it learns why.
        HostsError: none came in time, or one that was there is gone.
    """
    waiting = [listening, *(host.report for host in there.values())]
    ready, _, _ = select.select(waiting, [], [], max(0.0, until - time.monotonic()))
    if not ready:
        missing = ", ".join(str(index) for index in range(1, hosts.count) if index not in there)
        raise HostsError(
            f"{hosts.count - 1 - len(there)} of {hosts.count} hosts did not come to {hosts.place} within "
            f"{hosts.patience:g} seconds (missing: {missing}); start them with the same flags and their own --node-rank"
        )
    if listening not in ready:  # a host has nothing to say yet: it ended
        gone = next(host for host in there.values() if host.report in ready)
        raise HostsError(f"host {gone.index} ended before all hosts were there")
    connected, _ = listening.accept()
    host = Host(-1, _connection(connected))
    message = host.receive()
    index = (message or {}).get("index")
    if message is None or not isinstance(index, int):
        host.report.close()
        return None
    host = Host(index, host.report)
    try:
        _check(hosts, processes, message, there)
    except HostsDiffer as error:
        host.send(refused=str(error), differ=True)
        host.report.close()
        raise
    return host


def _check(hosts: Hosts, processes: int, message: Mapping[str, Any], there: Mapping[int, Host]) -> None:
    """Refuse a host that was not started like this one.

    Raises:
        HostsDiffer: it was not.
    """
    index, count, theirs = message["index"], message.get("count"), message.get("agreed")
    if count != hosts.count:
        raise HostsDiffer(f"host {index} was started for {count} hosts, host 0 for {hosts.count}; give all the same")
    if not 1 <= index < hosts.count or index in there:
        raise HostsDiffer(f"two hosts have number {index} (--node-rank); give each of {hosts.count} its own, from 0")
    if message.get("processes") != processes:
        other = message.get("processes")
        raise HostsDiffer(f"host {index} was started for {other} processes in all, host 0 for {processes}")
    theirs = theirs if isinstance(theirs, dict) else {}
    mine = dict(hosts.agreed)
    names = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    if names:
        both = [(name, *(cut(str(each.get(name, "not given"))) for each in (mine, theirs))) for name in names]
        told = "; ".join(f"{name}: {here} on host 0, {there} on host {index}" for name, here, there in both)
        raise HostsDiffer(f"host {index} has other settings than host 0; {told}")


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((address, 0))
        return free.getsockname()[1]


# ------------------------------------------------------------------------------ the others


def _join(hosts: Hosts, processes: int) -> Meeting:
    until = time.monotonic() + hosts.patience
    first = Host(0, _connection(_connect(hosts, until)))
    first.send(index=hosts.index, count=hosts.count, processes=processes, agreed=dict(hosts.agreed))
    ready = first.report.poll(max(0.0, until - time.monotonic()) + REPLY)
    message = first.receive() if ready else {}
    if message and isinstance(message.get("ranks"), str):
        return Meeting(hosts=(first,), ranks=message["ranks"], interface=_interface(_local_address(first.report)))
    first.report.close()
    if message is None:
        raise HostsError(f"host 0 at {hosts.place} ended before all hosts were there")
    if "refused" in message:
        raise (HostsDiffer if message.get("differ") else HostsError)(str(message["refused"]))
    raise HostsError(f"the hosts were not all there within {hosts.patience:g} seconds")


def _connect(hosts: Hosts, until: float) -> socket.socket:
    """Connect to the first host, which may start later.

    Raises:
        HostsError: it cannot be reached in time.
    """
    while True:
        left = until - time.monotonic()
        try:
            return socket.create_connection(hosts.address, timeout=max(left, AGAIN))
        except (socket.gaierror, UnicodeError) as error:
            raise HostsError(f"the address {hosts.place} of host 0 is unknown: {error}") from error
        except OSError as error:
            if left <= AGAIN:
                raise HostsError(
                    f"host 0 cannot be reached at {hosts.place} within {hosts.patience:g} seconds: "
                    f"{error.strerror or error}; is it started with --node-rank 0, and does the network let this pass?"
                ) from error
        time.sleep(AGAIN)


# ------------------------------------------------------------------------------ connections


def _connection(connected: socket.socket) -> Connection:
    """Return a connection for messages, which notices a host that is gone."""
    connected.settimeout(None)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", REPLY, 0))
    for name, value in ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
    return Connection(connected.detach())


def _local_address(connection: Connection) -> str:
    with socket.socket(fileno=connection.fileno()) as seen:
        try:
            return seen.getsockname()[0]
        finally:
            seen.detach()


def _interface(address: str) -> str | None:
    """Return the name of the network interface with an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                packed = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(packed[20:24]) == address:
                    return name
    return None

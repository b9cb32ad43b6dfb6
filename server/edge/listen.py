"""Listening sockets."""

import socket

from server.exceptions import ConfigError


def reserve(host: str, port: int, *, shared: bool, setting: str = "PORT") -> socket.socket:
    """Return a socket that is bound to the port and does not listen.

    `shared`: several processes bind the same port. `setting`: the setting that names the port, for the error. Raises
    ConfigError if the address cannot be bound.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:  # a machine without IPv6
        raise ConfigError(f"{setting}: {address} cannot be listened on ({error.strerror}). Choose another.") from None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        # :: means IPv6 and IPv4, whatever the machine's net.ipv6.bindv6only says.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"{setting}: {address} cannot be listened on ({error.strerror}). Choose another.") from None
    return sock


def bind(host: str, port: int, *, shared: bool, write_deadline: float, setting: str = "PORT") -> socket.socket:
    """Return a socket for `App.run`, which listens once it can serve. Raises ConfigError."""
    sock = reserve(host, port, shared=shared, setting=setting)
    # asyncio does not set it on connections of a socket that it is given, and an `ack` would wait 40 ms for the peer's
    # acknowledgement of the `changes` before it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted sockets inherit it. It backs the write deadline, and detects dead peers.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_deadline * 1000))
    sock.setblocking(False)
    return sock

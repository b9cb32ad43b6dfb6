"""The addresses that a server listens on."""

import socket
from typing import Any

import pytest

from protocol.frames import Live
from server.edge.listen import reserve
from server.exceptions import ConfigError
from tests.support.cluster import Database
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.serving import serving


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
async def test_two_colons_listen_on_ipv6_and_ipv4(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database, host="::", metrics_host="::") as server:
        for address in ("[::1]", "127.0.0.1"):
            async with peer(f"ws://{address}:{server.port}/sync") as device:
                await device.greet(user)
                await device.hear_a(Live)


@needs_ipv6
async def test_two_colons_listen_on_ipv4_where_the_machine_separates_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    class Separate(socket.socket):
        """A socket as it is made where net.ipv6.bindv6only is 1."""

        def __init__(self, family: int) -> None:
            super().__init__(family)
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    monkeypatch.setattr(socket, "socket", Separate)
    with reserve("::", 0, shared=False) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


def test_an_address_that_cannot_be_listened_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"^PORT: \[2001:db8::1\]:80 cannot be listened on \("):
        reserve("2001:db8::1", 80, shared=False)

    def no_ipv6(family: int) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", no_ipv6)
    with pytest.raises(ConfigError, match=r"^PORT: \[::\]:80 cannot be listened on \(Address family"):
        reserve("::", 80, shared=False)

"""Addresses of brokers, as both Kafka clients read them."""

from __future__ import annotations

import re

# A host as DNS and containers have it, or an IPv6 address in brackets; then a port.
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
HIGHEST_PORT = 65_535


def checked(servers: str) -> str:
    """`host:port,host:port...` without blanks. Raises ValueError saying what is wrong with which address."""
    addresses = [address.strip() for address in servers.split(",")]
    for address in addresses:
        if (problem := _problem(address)) is not None:
            raise ValueError(f"{problem}; give host:port, several separated by commas, IPv6 addresses in brackets")
    return ",".join(addresses)


def _problem(address: str) -> str | None:
    if not address:
        return "an address is empty"
    if "://" in address:
        return f"{address!r} has a protocol, which kafka.security_protocol says"
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return f"{address!r} is no address"
    return None if 0 < int(match["port"]) <= HIGHEST_PORT else f"{address!r} has no port in 1..{HIGHEST_PORT}"

"""The interface that others reach this host by."""

import psutil
import pytest

from kedge.launch.interfaces import address_towards, between

LOOPBACK = next(name for name, its in psutil.net_if_addrs().items() if "127.0.0.1" in (each.address for each in its))


def outside():
    for name, its in psutil.net_if_addrs().items():
        for each in its:
            if each.family.name == "AF_INET" and name != LOOPBACK:
                return name, each.address
    pytest.skip("no network interface here")


def test_one_host_that_is_reached_as_itself():
    assert address_towards("localhost", 1) in ("127.0.0.1", "::1")
    assert between(["127.0.0.1", "::1"], 1, {}) == {}


def test_the_meeting_place_may_not_know_its_own_address():
    """Where its name stands for a loopback address, those of the others are what it goes by."""
    name, address = outside()
    assert address_towards(address, 1) == address
    for addresses in ([address, address], ["127.0.0.1", address], ["", "127.0.1.1", address]):
        assert between(addresses, 1, {}) == {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


def test_what_the_user_says_stays():
    name, address = outside()
    assert between([address], 1, {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": ""}) == {
        "NCCL_SOCKET_IFNAME": name
    }

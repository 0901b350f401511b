"""Another machine: a network namespace whose link can go down. It takes root and iproute2."""
import ctypes
import ipaddress
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.harness import Missing
from tests.service import Service

CLONE_NEWNET = 0x40000000


class Machine:
    """A network namespace that reaches this machine's loopback address over a wire of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.all_there = threading.Barrier(8)

    def connect(self, service: Service) -> socket.socket:
        """A connection from there. A socket belongs to where it was made, whoever uses it afterwards."""
        def make() -> None:
            with open(f"/run/netns/{self.name}") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(service.connect())
        made: list[socket.socket] = []
        thread = threading.Thread(target=make)  # it alone changes over, and ends there
        thread.start()
        thread.join()
        return made[0]

    def go_down(self) -> None:
        """As behind a router: what is sent there vanishes, and nothing says so."""
        ip(f"-n {self.name} addr flush dev {self.name}c")


@contextmanager
def another_machine() -> Iterator[Machine]:
    """Raises Missing where this may not be made."""
    name = f"f{os.getpid() % 10**7}"
    net = f"198.51.100.{os.getpid() % 64 * 4}"  # kept for documentation; a virtual machine may itself have one of 192.0.2.x
    here, there = (str(ipaddress.ip_address(net) + i) for i in (1, 2))
    try:
        ip(f"netns add {name}")
        try:
            ip(f"link add {name}h type veth peer name {name}c netns {name}")
            ip(f"addr add {here}/30 dev {name}h")
            ip(f"link set {name}h up")
            ip(f"-n {name} addr add {there}/30 dev {name}c")
            ip(f"-n {name} link set {name}c up")
            Path(f"/proc/sys/net/ipv4/conf/{name}h/route_localnet").write_text("1")
            ip(f"netns exec {name} sysctl -qw net.ipv4.conf.{name}c.route_localnet=1")
            ip(f"-n {name} route add 127.0.0.1/32 dev {name}c src {there}")
            mac = json.loads(ip(f"-n {name} -json link show {name}c"))[0]["address"]
            ip(f"neigh replace {there} lladdr {mac} dev {name}h nud permanent")
        except BaseException:
            ip(f"netns del {name}")
            raise
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "").strip() or str(error)
        raise Missing(f"a network namespace cannot be made here, which takes root and iproute2 ({said})") from None
    try:
        yield Machine(name)
    finally:
        ip(f"link del {name}h")
        ip(f"netns del {name}")


def ip(arguments: str) -> str:
    return subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True).stdout

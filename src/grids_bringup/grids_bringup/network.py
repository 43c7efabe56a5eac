"""The middleware's settings for a run on two hosts: a Fast DDS profile and where to look for the other host."""

import ipaddress
import os
import socket
from pathlib import Path

from grids_common.params import ParameterError

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
SHARED_MEMORY_PROFILE = "fastdds.xml"  # config/: for one host
PROBE_PORT = 9  # discard: hardly ever open, and a host without it says so
PROBE_S = 4.0  # the kernel asks three times, a second each, who has an address

# UDP alone. Messages fit into one Ethernet frame: IP fragments would lose a whole image with each lost frame, DDS's own
# fragments are sent again one by one. Both buffers hold several images of two cameras. The participants of a host take
# consecutive ports, of which Fast DDS tries 4 by default: a part has up to 7 processes.
_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>grids_network</transport_id>
        <type>UDPv4</type>
        <maxMessageSize>1400</maxMessageSize>
        <sendBufferSize>4194304</sendBufferSize>
        <receiveBufferSize>4194304</receiveBufferSize>
        <maxInitialPeersRange>32</maxInitialPeersRange>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="grids_participant" is_default_profile="true">
      <rtps>
        <userTransports>
          <transport_id>grids_network</transport_id>
        </userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
      </rtps>
    </participant>
  </profiles>
</dds>
"""


def addresses(peers: str) -> tuple[str, ...]:
    """The IPv4 addresses in "IP[,IP]". Raises ParameterError."""
    found = []
    for word in filter(None, (part.strip() for part in peers.split(","))):
        try:
            found.append(str(ipaddress.IPv4Address(word)))
        except ipaddress.AddressValueError as error:
            raise ParameterError(f"peers: expected IPv4 addresses with commas between them, got {word!r}") from error
    return tuple(found)


def refuse_unreachable(peers: tuple[str, ...]) -> None:
    """Raise ParameterError if this host has no way to one of the addresses, or the network says that it has no host."""
    for peer in peers:
        if reason := _unreachable(peer):
            raise ParameterError(
                f"peers: no host answers at {peer} ({reason}): check its address, its power and the cable"
            )


def _unreachable(peer: str) -> str:
    """Why no packet reaches `peer`; "" if one does or nothing is said, as by a host with a firewall."""
    try:
        socket.create_connection((peer, PROBE_PORT), timeout=PROBE_S).close()
    except (TimeoutError, ConnectionRefusedError):
        return ""
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def environment(peers: str, folder: Path) -> dict[str, str]:
    """The variables for the processes of one part; writes the profile to `folder`.

    With peers, the processes look for others at those addresses and on this host only; without, by multicast. A profile
    of the user's own stays.
    """
    named = addresses(peers)
    variables = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST" if named else "SUBNET",
        "ROS_STATIC_PEERS": ";".join(named),
    }
    if Path(os.environ.get(PROFILE_VARIABLE) or SHARED_MEMORY_PROFILE).name == SHARED_MEMORY_PROFILE:
        profile = folder / "network.xml"
        profile.write_text(_PROFILE, encoding="utf-8")
        variables[PROFILE_VARIABLE] = str(profile)
    return variables

"""Users, groups and capabilities in few words."""

from collections.abc import Iterator, Sequence

from display.listing import first_few
from display.names import ALL_CAPABILITIES, capability_set_text
from formats.threadstate import Credentials

_GROUPS_SHOWN = 8
_ID_NAMES = ("real", "effective", "saved", "file system")


def _ids_text(ids: Sequence[int]) -> str:
    """One number where all are the same, else each with its name."""
    if len(set(ids)) == 1:
        return str(ids[0])
    return ", ".join(f"{name} {number}" for name, number in zip(_ID_NAMES, ids, strict=False)) or "-"


def users_text(credentials: Credentials) -> str:
    """The user and group ids, and the groups."""
    text = f"uid {_ids_text(credentials.uids)}; gid {_ids_text(credentials.gids)}"
    if credentials.groups:
        text += "; groups " + first_few([str(group) for group in credentials.groups], _GROUPS_SHOWN, " ")
    return text


def _capabilities(credentials: Credentials) -> Iterator[str]:
    yield f"effective {capability_set_text(credentials.cap_effective)}"
    if credentials.cap_permitted != credentials.cap_effective:
        yield f"permitted {capability_set_text(credentials.cap_permitted)}"
    if credentials.cap_inheritable:
        yield f"inheritable {capability_set_text(credentials.cap_inheritable)}"
    if credentials.cap_ambient:
        yield f"ambient {capability_set_text(credentials.cap_ambient)}"
    if credentials.cap_bounding & ALL_CAPABILITIES != ALL_CAPABILITIES:
        yield f"bounding {capability_set_text(credentials.cap_bounding)}"
    if credentials.no_new_privs:
        yield "no new privileges"


def capabilities_text(credentials: Credentials) -> str:
    """The capability sets that say something."""
    return "; ".join(_capabilities(credentials))


def credentials_text(credentials: Credentials) -> str:
    """All of it, in one line."""
    return f"{users_text(credentials)}; {capabilities_text(credentials)}"

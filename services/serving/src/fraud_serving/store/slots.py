"""Slots of a Valkey or Redis cluster: which slot a key has, and which node serves a slot."""

from binascii import crc_hqx
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

SLOTS: Final = 16_384
_MASK: Final = SLOTS - 1
Place = tuple[str, int]
"""Host and port of a node."""


def key_slot(key: bytes) -> int:
    """CRC-16/XMODEM of the key, or of its hash tag: what is between the first `{` and the next `}`, if not empty.

    Instead of a key with a hash tag, a command whose first `{` is that of the tag gives the same slot.
    """
    start = key.find(b"{") + 1
    if start and (end := key.find(b"}", start)) > start:
        key = key[start:end]
    return crc_hqx(key, 0) & _MASK


def parse_ranges(reply: Any, asked: str) -> tuple[list[Place | None], set[Place]]:  # noqa: ANN401 - a reply
    """The primary of each slot, and every node, from the reply to CLUSTER SLOTS of the node at `asked`.

    A node that does not announce a host is at the host that was asked. Raises ValueError for another reply.
    """
    primaries: list[Place | None] = [None] * SLOTS
    nodes: set[Place] = set()
    try:
        for first, last, *found in reply:
            places = [(host.decode() if host and host != b"?" else asked, int(port)) for host, port, *_ in found]
            primaries[first : last + 1] = [places[0]] * (last + 1 - first)
            nodes.update(places)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"expected the reply to CLUSTER SLOTS, got {reply!r:.200}") from error
    if len(primaries) != SLOTS:
        raise ValueError(f"expected slots below {SLOTS}")
    return primaries, nodes


def most_stated(tables: Sequence[Sequence[Place | None]]) -> Sequence[Place | None]:
    """The primary of each slot that most nodes state; of equal numbers, what the first ones state.

    A node that is cut off from the others may state an older table than they do.
    """
    if all(table == tables[0] for table in tables[1:]):
        return tables[0]
    return [_most(stated) for stated in zip(*tables, strict=True)]


def _most(stated: Iterable[Place | None]) -> Place | None:
    counted = Counter(place for place in stated if place is not None)
    return counted.most_common(1)[0][0] if counted else None

"""The tree as a terminal shows it."""

from fraud.audit.version_tree import Node


def test_branches_are_drawn_to_their_last_leaf() -> None:
    one = Node(text="a", below=(Node(text="a1"), Node(text="a2")))
    other = Node(text="b", below=(Node(text="b1"),))
    tree = Node(text="root", below=(one, other))
    assert tree.lines() == ["root", "├─ a", "│  ├─ a1", "│  └─ a2", "└─ b", "   └─ b1"]

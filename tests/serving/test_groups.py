"""The table of groups in services/serving/README.md lists the imports of fraud_serving, and they have no cycle."""

import ast
import re
from pathlib import Path
from typing import Final

SERVING: Final = Path(__file__).parents[2] / "services/serving"
PACKAGE: Final = SERVING / "src/fraud_serving"


def documented() -> dict[str, set[str]]:
    """Group -> the groups it may import, in the order of the table."""
    rows = re.findall(r"^\| `(\w+)` \| .+ \|([^|]*)\|$", (SERVING / "README.md").read_text(), re.MULTILINE)
    return {group: set(re.findall(r"\w+", names)) for group, names in rows}


def imported() -> dict[str, set[str]]:
    """Group -> the groups that its modules import."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        group = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if group in ("__init__", "__main__"):
            continue
        names = found.setdefault(group, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "fraud_serving":
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fraud_serving."):
                names.add(node.module.split(".")[1])
        names.discard(group)
    return found


def test_the_table_lists_the_imports_of_every_group() -> None:
    assert documented() == imported()


def test_a_group_imports_only_groups_above_it_in_the_table() -> None:
    above: set[str] = set()
    for group, names in documented().items():
        assert names <= above, group
        above.add(group)

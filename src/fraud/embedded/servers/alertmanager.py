"""Alertmanager in the embedded stack: the system's package, where it is installed, over the committed configuration.

`python -m fraud.embedded.servers.alertmanager` prints the same configuration for other stacks.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from fraud.embedded.stack import Stack
from fraud.errors import BadConfigError

_NO_PAGES: Final = Path("/usr/share/prometheus/alertmanager/no-ui")


def binary() -> str | None:
    """The installed server, as Debian or its makers name it; None where the package is not there."""
    return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def configuration(folder: Path) -> str:
    """`alertmanager.yml` of the folder, its receivers replaced by those of `receivers.yml`, where that is written.

    Raises BadConfigError for a receiver that no route names.
    """
    routes: dict[str, Any] = yaml.safe_load((folder / "alertmanager.yml").read_text())
    own = folder / "receivers.yml"
    receivers = {entry["name"]: entry for entry in routes["receivers"]}
    for entry in yaml.safe_load(own.read_text()) or [] if own.is_file() else []:
        if entry.get("name") not in receivers:
            raise BadConfigError(
                f"{own}: a receiver nobody sends to", expected=", ".join(receivers), got=str(entry.get("name"))
            )
        receivers[entry["name"]] = entry
    return yaml.safe_dump({**routes, "receivers": list(receivers.values())}, sort_keys=False)


def command(stack: Stack, program: str) -> list[str]:
    """What to run. Writes the configuration below `<home>/alertmanager`."""
    folder = stack.home / "alertmanager"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alertmanager.yml").write_text(configuration(stack.project / "infra/alertmanager"))
    return [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{stack.ports['alertmanager']}",
        f"--web.external-url={stack.url('alertmanager')}",
        "--cluster.listen-address=",
    ]


def page(stack: Stack) -> str:
    """The page of the alerts. Debian's package has none; there it is the list as the API gives it."""
    return f"{stack.url('alertmanager')}/{'api/v2/alerts' if _NO_PAGES.is_dir() else '#/alerts'}"


if __name__ == "__main__":
    sys.stdout.write(configuration(Path("infra/alertmanager")))

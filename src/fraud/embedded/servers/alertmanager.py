"""Alertmanager in the embedded stack: the installed system package with the committed configuration.

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
    """The installed server, under Debian's or the upstream name. None when it is not installed."""
    return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


def configuration(folder: Path) -> str:
    """The folder's `alertmanager.yml`. Receivers of an optional `receivers.yml` replace those of the same name.

    Raises BadConfigError for a receiver that no route uses.
    """
    routes: dict[str, Any] = yaml.safe_load((folder / "alertmanager.yml").read_text())
    own = folder / "receivers.yml"
    receivers = {entry["name"]: entry for entry in routes["receivers"]}
    for entry in yaml.safe_load(own.read_text()) or [] if own.is_file() else []:
        if entry.get("name") not in receivers:
            raise BadConfigError(
                f"{own}: no route uses this receiver", expected=", ".join(receivers), got=str(entry.get("name"))
            )
        receivers[entry["name"]] = entry
    return yaml.safe_dump({**routes, "receivers": list(receivers.values())}, sort_keys=False)


def command(stack: Stack, program: str) -> list[str]:
    """The command. Writes the configuration below `<home>/alertmanager`."""
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
    """The URL of the alerts: the web page, or the API's list with Debian's package, which has no web page."""
    return f"{stack.url('alertmanager')}/{'api/v2/alerts' if _NO_PAGES.is_dir() else '#/alerts'}"


if __name__ == "__main__":
    sys.stdout.write(configuration(Path("infra/alertmanager")))

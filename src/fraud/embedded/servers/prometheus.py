"""Prometheus in the embedded stack: the installed system package with the committed configuration."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fraud.embedded.stack import STREAM_PORTS, Stack

_OLDER_PAGES: Final = Path("/usr/share/prometheus/web/static")


def binary() -> str | None:
    """The installed server. None when it is not installed."""
    return shutil.which("prometheus")


def command(stack: Stack, program: str) -> list[str]:
    """The command. Writes the committed configuration and this stack's targets below `<home>/prometheus`."""
    folder = stack.home / "prometheus"
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    shutil.copytree(stack.project / "infra/prometheus", folder, dirs_exist_ok=True)
    targets: Mapping[str, str] = {
        "serving": "serving",
        "stream": "stream",
        "platform": "platform_metrics",
        "prometheus": "prometheus",
        "alertmanager": "alertmanager",
    }
    for job, service in targets.items():
        group = [{"targets": [f"127.0.0.1:{stack.ports[service]}"], "labels": {"environment": "embedded"}}]
        used = stack.stream or service not in STREAM_PORTS
        (folder / "targets" / f"{job}.json").write_text(json.dumps(group if used else []))
    return [
        program,
        "--enable-feature=expand-external-labels",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=15d",
        f"--web.listen-address=127.0.0.1:{stack.ports['prometheus']}",
        f"--web.external-url={stack.url('prometheus')}",
    ]


def page(stack: Stack) -> str:
    """The URL of the alerts page. Debian builds Prometheus with the older pages only, at /classic."""
    return f"{stack.url('prometheus')}{'/classic' if _OLDER_PAGES.is_dir() else ''}/alerts"

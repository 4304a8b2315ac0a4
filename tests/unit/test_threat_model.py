"""docs/threat-model.md names existing tests, and the secret scan finds a secret."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/threat-model.md").read_text()
HOOK = ROOT / ".venv/tools/bin/detect-secrets-hook"


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 40
    assert [
        f"{path}::{name}" for path, name in named
        if not re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ] == []  # fmt: skip


def test_a_secret_that_is_about_to_be_committed_is_found(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text((ROOT / ".secrets.baseline").read_text())
    planted, clean = tmp_path / "planted.py", tmp_path / "clean.py"
    planted.write_text(f'key = "{"AKIA" + "Z7QK3M5N2P4R6T8V"}"\n')
    clean.write_text('key = os.environ["KEY"]\n')
    codes = [
        subprocess.run([HOOK, "--baseline", baseline, path], cwd=ROOT, check=False, capture_output=True).returncode
        for path in (planted, clean)
    ]
    assert codes == [1, 0]

"""The file of secrets, `.env`: generated once, mode 600, read by the embedded stack and by Docker Compose.

Standard library only: `make up` runs it on a machine with Docker and Python and without the platform's environments.

    python -m fraud.secret_file .env docker-compose.yml    generates what the second file requires (${NAME:?})
"""

import base64
import os
import re
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SHORTEST: Final = 16
_REQUIRED: Final = re.compile(r"\$\{([A-Z0-9_]+):\?")
_EXAMPLES: Final = re.compile(r"change.?me|example|secret|passw|admin|default|xxxx|1234", re.IGNORECASE)


def write_private(path: Path, text: str) -> None:
    """Write a file, atomically, that only its owner can read (mode 600)."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def read_env(path: Path) -> dict[str, str]:
    """The variables of `NAME=value` lines. Comments and blank lines are skipped."""
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def ensure_secrets(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Read the file and generate the `names` that are missing. Everything else in the file is kept."""
    kept = read_env(path)
    new = {name: _new_secret(name) for name in names if not kept.get(name)}
    if new:
        text = path.read_text() if path.is_file() else "# Generated. Do not commit or share this file.\n"
        lines = [line for line in text.splitlines() if line.partition("=")[0].strip() not in new]
        write_private(path, "\n".join([*lines, *(f"{name}={value}" for name, value in new.items())]) + "\n")
    path.chmod(0o600)
    return kept | new


def weak(values: dict[str, str]) -> list[str]:
    """Names whose value is shorter than SHORTEST or contains a word of an example password."""
    return [name for name, value in values.items() if len(value) < SHORTEST or _EXAMPLES.search(value)]


def _new_secret(name: str) -> str:
    """A random value: a Fernet key for a name that ends in FERNET_KEY, else 24 bytes as letters, digits, - and _."""
    while True:
        value = (
            base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            if name.endswith("FERNET_KEY")
            else secrets.token_urlsafe(24)
        )
        if not weak({name: value}):  # a random value contains such a word once in some ten thousand
            return value


def main(arguments: list[str]) -> None:
    if len(arguments) != 2:
        sys.exit(__doc__)
    path, compose = Path(arguments[0]), Path(arguments[1])
    names = sorted(set(_REQUIRED.findall(compose.read_text())))
    values = ensure_secrets(path, names)
    if found := weak({name: values[name] for name in names}):
        sys.exit(
            f"{path}: {', '.join(found)}: shorter than {SHORTEST} characters, or with a word of an example password.\n"
            "Delete the line to have a random value generated."
        )


if __name__ == "__main__":
    main(sys.argv[1:])

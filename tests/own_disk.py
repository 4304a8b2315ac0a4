"""A disk of its own for a program on a host of tests/netns.py.

The program sees a folder as `/`, and of this machine's files only those of the system and those that are given by name,
both read-only. What other hosts write cannot be read.
"""

import sys
from pathlib import Path
from typing import Final

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys")
_SCRIPT: Final = """
set -e
root=$1 directory=$2
shift 2
while [ "$1" != -- ]; do
    from=$1 to=$root$2
    shift 2
    [ -e "$from" ] || continue
    mkdir -p "$to"
    mount --rbind "$from" "$to"
    case $from in /dev | /proc | /sys) ;; *) mount -o remount,bind,ro "$to" ;; esac
done
shift
mkdir -p "$root/tmp" "$root$directory"
exec chroot "$root" /usr/bin/env --chdir="$directory" "$@"
"""
"""Mounts are visible in the mount namespace of the program only, and go with it."""


def command(
    root: Path, *arguments: str | Path, given: dict[Path, str] | None = None, directory: str = "/"
) -> list[str]:
    """The command that runs `arguments` with `root` as its disk. `given` maps paths of this machine to paths there.

    Python's own installation is given, at its path: it may be outside of the system's folders.
    """
    shown = {**{Path(name): name for name in SYSTEM}, Path(sys.base_prefix): sys.base_prefix, **(given or {})}
    mounts = [str(each) for pair in shown.items() for each in pair]
    return [
        "unshare",
        "--mount",
        "sh",
        "-c",
        _SCRIPT,
        "own-disk",
        str(root),
        directory,
        *mounts,
        "--",
        *map(str, arguments),
    ]

"""Sizes of the three images of the platform, by layer, and by package in the largest layers.

    make images && make bench-images

Prints a table and writes build/bench/images.json. The size of a layer is that of `docker history`; the size of a
package is that of its folders in the image. Exit code 1 if serving exceeds its limit. Needs no running stack.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
IMAGES: Final = {"fraud-serving": "/opt/serving", "fraud-mlflow": "/opt/mlflow", "fraud-airflow": "/opt/fraud/.venv"}
SERVING_MAX_BYTES: Final = 350_000_000
SHOWN: Final = 8
MB: Final = 1e6


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def layers(image: str) -> list[tuple[str, int]]:
    """The command and the bytes of each layer that is not empty, oldest first."""
    lines = docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", image)
    found = [line.split("\t", 1) for line in reversed(lines.splitlines())]
    return [(" ".join(made.split()).removesuffix(" # buildkit"), int(size)) for size, made in found if int(size)]


def packages(image: str, folder: str) -> list[tuple[str, int]]:
    """Package -> bytes, the largest first."""
    measure = f"du -sk {folder}/lib/python*/site-packages/* {folder}/*/lib/python*/site-packages/* 2>/dev/null || true"
    listed = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", measure)
    sizes: dict[str, int] = {}
    for line in listed.splitlines():
        kilobytes, path = line.split("\t")
        name = Path(path).name.removesuffix(".libs")
        sizes[name] = sizes.get(name, 0) + int(kilobytes) * 1024
    return sorted(sizes.items(), key=lambda item: -item[1])


def main() -> None:
    result = {}
    for name, folder in IMAGES.items():
        image = f"{name}:local"
        about = json.loads(docker("image", "inspect", image))[0]
        commit = about["Config"]["Labels"]["org.opencontainers.image.revision"]
        by_layer, by_package = layers(image), packages(image, folder)
        print(f"\n{name}  {about['Size'] / MB:,.0f} MB  commit {commit}")
        for made, size in by_layer:
            if size >= MB:
                print(f"{size / MB:>9,.1f}  {made[:100] or 'base'}")
        print("  of which", ", ".join(f"{package} {size / MB:,.0f}" for package, size in by_package[:SHOWN]))
        result[name] = {
            "bytes": about["Size"], "commit": commit, "layers": by_layer, "packages": by_package[: 3 * SHOWN],
        }  # fmt: skip
    path = ROOT / "build/bench/images.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    if result["fraud-serving"]["bytes"] >= SERVING_MAX_BYTES:
        sys.exit(f"fraud-serving is not below {SERVING_MAX_BYTES / MB:.0f} MB")


if __name__ == "__main__":
    main()

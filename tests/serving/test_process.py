"""What the processes of serving have in common."""

import json
import subprocess
import sys

import pytest

from fraud_serving import process

FREED = """
import json
from pathlib import Path
from fraud_serving import process

def resident_mb():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024

seen = [resident_mb()]
blocks = [b"x" * 100_000 for _ in range(1_000)]  # below glibc's limit for a mapping of its own
seen.append(resident_mb())
blocks[:-1] = []  # the last one keeps the heap from shrinking
seen.append(resident_mb())
process.trim_function()(0)
print(json.dumps([*seen, resident_mb()]))
"""


@pytest.mark.skipif(process.trim_function() is None, reason="needs glibc")
def test_free_memory_between_blocks_is_returned_to_the_system() -> None:
    found = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True).stdout
    first, full, freed, returned = json.loads(found)
    assert full > first + 90
    assert freed > first + 80
    assert returned < first + 10

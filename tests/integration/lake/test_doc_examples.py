"""The examples of "Read the lake with your own tools" in docs/data.md are run, in a process without `fraud`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest
from tests.integration.lake import generations
from tests.served_answers import THREE

from fraud.lake import catalog

PAGE: Final = (Path(__file__).parents[3] / "docs/data.md").read_text()
SECTION: Final = PAGE.partition("## Read the lake with your own tools\n")[2].partition("\n## ")[0]
EXAMPLES: Final = [
    block for block in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL) if "spark.jars.packages" not in block
]
DAY: Final = generations.DAYS[1]
# What an example ends with, `rows`, may be of any library.
PRINT: Final = """
import json
if hasattr(rows, "to_arrow_table"):
    rows = rows.to_arrow_table()
ids = [row.transaction_id for row in rows.collect()] if hasattr(rows, "rdd") else list(rows["transaction_id"])
print(json.dumps([getattr(i, "as_py", lambda i=i: i)() for i in ids]))
"""


def name(example: str) -> str:
    libraries = [n for n in ("pyspark", "duckdb", "version=", "polars", "to_pandas", "pyarrow.dataset") if n in example]
    return libraries[0].strip("=").removesuffix(".dataset")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a lake, in which each table was published twice."""
    lake = f"file://{tmp_path}/var/lake"
    for definition in (catalog.TRANSACTIONS, catalog.SCORES):
        dataset, schema = definition.at(lake), definition.schema(THREE)
        for generation in (1, 2):
            dataset.commit([
                dataset.written(str(day), generations.table(schema, day, generation)) for day in generations.DAYS
            ])  # fmt: skip
    return tmp_path


def test_the_section_has_its_examples() -> None:
    assert [name(example) for example in EXAMPLES] == ["polars", "to_pandas", "pyarrow", "duckdb", "version", "pyspark"]


@pytest.mark.parametrize(
    "example",
    [pytest.param(e, id=name(e), marks=[pytest.mark.slow] if name(e) == "pyspark" else []) for e in EXAMPLES],
)
def test_an_example_reads_the_published_rows_of_a_day(project: Path, example: str) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(project), "PYSPARK_PYTHON": sys.executable,
           "SPARK_LOCAL_IP": "127.0.0.1", "PYTHONWARNINGS": "ignore"}  # fmt: skip
    (project / "example.py").write_text(f"{example}{PRINT}")
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=project, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    definition = catalog.SCORES if "duckdb" not in example and "scores" in example else catalog.TRANSACTIONS
    published = generations.table(definition.schema(THREE), DAY, 1 if "version=" in example else 2)
    if "is_fraud" in example:
        published = published.filter(pa.compute.equal(published["is_fraud"], pa.scalar(value=True)))
    assert sorted(json.loads(done.stdout.splitlines()[-1])) == published["transaction_id"].to_pylist()
    assert published.num_rows > 10

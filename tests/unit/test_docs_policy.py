"""Every DAG, job, setting, command, metric and endpoint is documented, and generated tables are up to date."""

import re
from pathlib import Path

import pytest
from docs import generate

from fraud.job_list import JOBS
from fraud.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(path for path in (ROOT / "infra").rglob("*.md") if "node_modules" not in path.parts),
]  # fmt: skip
TEXT = "\n".join(page.read_text() for page in PAGES)
SERVING = ROOT / "services/serving/src/fraud_serving"


def documented(name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", TEXT) is not None


@pytest.mark.parametrize("dag", sorted(path.stem for path in (ROOT / "dags").glob("*.py")))
def test_every_dag_is_documented(dag: str) -> None:
    assert documented(dag)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_of_the_jobs_is_documented(name: str) -> None:
    assert documented(f"FRAUD_{name.upper()}")


@pytest.mark.parametrize("job", sorted(JOBS))
def test_every_job_has_its_module_and_is_documented(job: str) -> None:
    assert (ROOT / f"src/{JOBS[job].module.replace('.', '/')}.py").is_file()
    assert f"fraud {job}" in TEXT


@pytest.mark.parametrize("page", sorted({page for page, _ in generate.TABLES}))
def test_generated_tables_are_up_to_date(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == generate.generated(page), "run make docs"


def test_the_schema_of_declarations_is_up_to_date() -> None:
    assert generate.SCHEMA.read_text() == generate.schema(), "run make docs"


def test_a_page_without_a_table_below_the_heading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generate.TABLES, ("jobs.md", "No such heading"), lambda: "")
    with pytest.raises(ValueError, match=r"docs/jobs.md has no table below the heading 'No such heading'"):
        generate.generated("jobs.md")


def test_every_variable_of_serving_is_documented() -> None:
    fields = re.findall(
        r"^    (\w+): .*= Field\(|^    (\w+): .*Field\($", (SERVING / "settings.py").read_text(), re.MULTILINE
    )
    names = {f"SERVING_{(one or other).upper()}" for one, other in fields} - {
        "SERVING_MLFLOW_USERNAME", "SERVING_MLFLOW_PASSWORD",
    }  # fmt: skip
    assert len(names) > 10
    assert {name for name in names if not documented(name)} == set()


def test_every_metric_of_serving_is_documented() -> None:
    names = set(re.findall(r'"((?:model|serving)_[a-z_]+)"', (SERVING / "metrics.py").read_text()))
    assert "model_predictions_total" in names | {f"{name}_total" for name in names}
    assert {n for n in names if not (documented(n) or documented(f"{n}_total"))} == set()


def test_every_variable_and_metric_of_the_stream_is_documented() -> None:
    settings = (SERVING / "stream/settings.py").read_text().partition("class StreamScoringSettings")[0]
    fields = re.findall(r"^    (\w+): .*= Field\(", settings, re.MULTILINE)
    metrics = set(re.findall(r'"(stream_[a-z_]+)"', (SERVING / "stream/metrics.py").read_text()))
    assert len(fields) > 10
    assert len(metrics) > 10
    assert {name for name in fields if not documented(f"STREAM_{name.upper()}")} == set()
    assert {n for n in metrics if not (documented(n) or documented(f"{n}_total"))} == set()


def test_every_metric_of_declarations_is_described_in_its_table() -> None:
    module = (ROOT / "src/fraud/monitoring/declared_metrics.py").read_text()
    names = set(re.findall(r'"(fraud_[a-z_]+)"', module))
    table = (ROOT / "docs/monitoring.md").read_text().split("## Metrics of declarations")[1].split("\n## ")[0]
    described = set(re.findall(r"`(fraud_[a-z_]+)`", table))
    others = {name for name in described - names if name.startswith(("fraud_dataset_", "fraud_drift_"))}
    assert described - others == names | {"fraud_source_up"}
    exporter = (ROOT / "src/fraud/monitoring/platform_metrics.py").read_text()
    assert {name for name in others if f'"{name}"' not in exporter} == set()


def test_every_metric_of_the_online_store_is_described_in_its_table() -> None:
    module = (ROOT / "src/fraud/monitoring/online_store_metrics.py").read_text()
    names = set(re.findall(r'"(fraud_[a-z_]+)"', module))
    table = (ROOT / "docs/monitoring.md").read_text().split("## Metrics of the online store")[1]
    assert {n.removesuffix("_total") for n in re.findall(r"`(fraud_[a-z_]+)`", table)} == names


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/health", "/ready", "/model", "/metrics"])
def test_every_endpoint_is_documented(path: str) -> None:
    assert path in TEXT


def test_every_make_target_has_a_help_line_and_the_readme_names_the_main_ones() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = " ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)).split()
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), f"make {target} has no ## line"
    for target in ("setup", "demo", "down", "test", "lint", "clean"):
        assert f"make {target}" in (ROOT / "README.md").read_text()


def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, as GitHub and Airflow's pages of the documentation make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_to_a_file_and_a_heading() -> None:
    broken = []
    for page in PAGES:
        for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
    assert broken == []

"""Print what serves, how fresh the data is, which alerts fire, what is wrong and what changed in the last day."""

from datetime import UTC, datetime

from pydantic import Field

from fraud.job import Context, JobConfig, JobResult
from fraud.printing import cell
from fraud.status.changes import changes
from fraud.status.facts import Facts
from fraud.status.problems import Problem, problems
from fraud.status.reading import read
from fraud.status.text import sections, text


class Config(JobConfig):
    """Deadline of the sources."""

    deadline: float = Field(default=10.0, gt=0, le=300, description="seconds after which a source counts as a problem")


class Result(JobResult):
    """The exit code is 1 when there is a problem."""

    ok: bool
    problems: tuple[Problem, ...]
    changes: tuple[str, ...]
    """Of the last day."""
    facts: Facts
    tables: dict[str, list[dict[str, str]]]
    """The facts by title, as the report prints them."""

    def as_text(self) -> str:
        return text(self.facts, self.problems, self.changes)

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1


def run(config: Config, context: Context) -> Result:
    """Read every configured source. A source that does not answer is a problem, not an error."""
    facts = read(context, datetime.now(UTC), config.deadline)
    found = tuple(problems(facts))
    tables = {
        title: [{name: cell(value) for name, value in row.items()} for row in rows]
        for title, rows in sections(facts).items()
    }
    return Result(ok=not found, problems=found, changes=tuple(changes(facts)), facts=facts, tables=tables)

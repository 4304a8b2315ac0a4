"""The code dependencies of the stages in `dvc.yaml`: the import closures of their jobs.

`python -m fraud.training.dvc.pipeline` writes them into the `dvc.yaml` of the current folder.
"""

import re
from pathlib import Path
from typing import Final

import fraud
from fraud.job_list import JOBS
from fraud.training import model_inputs
from fraud.training.import_closure import closure

_JOB: Final = re.compile(r"\$\{here\} fraud ([\w-]+)")
_CODE: Final = re.compile(r"(?:^ +- src/fraud\S*\n)+", re.MULTILINE)


def with_code(text: str, package: Path) -> str:
    """`dvc.yaml` with every stage's `src/fraud` dependencies replaced. `package` is the folder of `fraud`.

    Raises ValueError for a stage without such dependencies.
    """
    head, *stages = re.split(r"^(?=  \w+:$)", text, flags=re.MULTILINE)
    return head + "".join(_stage(stage, package) for stage in stages)


def _stage(text: str, package: Path) -> str:
    modules = [JOBS[name].module for name in _JOB.findall(text)]
    trains = JOBS["train"].module in modules
    files = closure(package, modules, model_inputs.LEFT_OUT if trains else model_inputs.WITHOUT_CONTENT)
    lines = "".join(f"      - src/fraud/{path.relative_to(package)}\n" for path in files)
    replaced, count = _CODE.subn(lines, text)
    if count != 1:
        raise ValueError(f"expected one list of src/fraud files in a stage, got {count}: {text.splitlines()[0]}")
    return replaced


if __name__ == "__main__":
    pipeline = Path("dvc.yaml")
    pipeline.write_text(with_code(pipeline.read_text(), Path(next(iter(fraud.__path__)))))

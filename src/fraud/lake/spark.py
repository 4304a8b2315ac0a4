"""A Spark session for one job, and the progress of its tasks."""

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final, TypeVar

import structlog
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession

from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.lake import spark_archives
from fraud.settings import Settings
from fraud.uris import uri_of

POLL_SECONDS: Final = 2.0
_PYTHON_OF_WORKERS: Final = "python3.11"
"""Found on the PATH of a worker. Its packages come with the job."""
_CHECKS: Final = 8
"""Tasks that compare the code of workers with the driver's. More than that of them may go to one worker."""
_REFUSED: Final = re.compile(rf"{BadInputError.__name__}: ([^\n]+)")
"""Finds the message of a worker's BadInputError in Spark's report of the failed task."""
Input = TypeVar("Input")
T = TypeVar("T")


@contextmanager
def spark_session(settings: Settings, name: str) -> Iterator[SparkSession]:
    """A session on `settings.spark_master`. It is stopped, with its JVM and workers, at the end of the block.

    An active session of this process is used and not stopped. Raises BadConfigError without Java, UnavailableError
    when the JVM does not start.
    """
    if (up := SparkSession.getActiveSession()) is not None:
        yield up
        return
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise BadConfigError("Spark needs Java", expected="java 17 on PATH, or JAVA_HOME", hint="install a JRE 17")
    local = settings.spark_master.startswith("local")
    sends_archives = not local and settings.spark_workers == "archive"
    # Spark reads these two from the environment only. Workers must run this interpreter, not the PATH's python3.
    os.environ["PYSPARK_PYTHON"] = _PYTHON_OF_WORKERS if sends_archives else sys.executable
    if local:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    with TemporaryDirectory(prefix="fraud-spark-") as scratch:
        conf = (
            SparkConf()
            .setMaster(settings.spark_master)
            .setAppName(name)
            .set("spark.ui.enabled", "false")
            .set("spark.ui.showConsoleProgress", "false")
            .set("spark.log.level", "ERROR")
            .set("spark.local.dir", scratch)
            .set("spark.sql.warehouse.dir", uri_of(Path(scratch) / "warehouse"))
            .set("spark.sql.session.timeZone", "UTC")
            .set("spark.sql.shuffle.partitions", "8")
        )
        if local:
            conf.set("spark.driver.host", "127.0.0.1").set("spark.driver.bindAddress", "127.0.0.1")
        else:
            for variable in (each for each in os.environ if each.startswith("AWS_")):
                conf.set(f"spark.executorEnv.{variable}", os.environ[variable])
        if sends_archives:
            archives = (spark_archives.environment(settings.home / "spark"), spark_archives.code(Path(scratch)))
            conf.set("spark.archives", "{}#environment,{}#code".format(*archives))
            conf.set("spark.executorEnv.PYTHONPATH", "code:environment")
        try:
            session = SparkSession.builder.config(conf=conf).getOrCreate()
        except (PySparkException, Py4JError, OSError) as error:
            raise UnavailableError("Spark did not start", got=str(error), hint="see the lines above") from error
        before = signal.signal(signal.SIGTERM, _exit)
        try:
            if not local and not sends_archives:
                _check_code(session)
            yield session
        finally:
            signal.signal(signal.SIGTERM, before)
            _stop(session)


def _check_code(session: SparkSession) -> None:
    """Raise BadConfigError if a worker has another version of the package `fraud` than this process."""
    tasks = session.sparkContext.parallelize(range(_CHECKS), _CHECKS)
    found = set(tasks.map(lambda _: spark_archives.code_key()).collect())
    if found != {spark_archives.code_key()}:
        raise BadConfigError(
            "Spark's workers have other code than the job", expected="the image of the job", got="another one",
            hint="deploy one image for both, or set FRAUD_SPARK_WORKERS=archive",
        )  # fmt: skip


def _exit(number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C: the stack is unwound, so that JVM and workers end with the job."""
    sys.exit(128 + number)


def _stop(session: SparkSession) -> None:
    """Stop the context, then the JVM, which would otherwise keep its memory until this process ends."""
    gateway = SparkContext._gateway  # noqa: SLF001 - pyspark has no public way to end its JVM
    with suppress(Py4JError, OSError):  # the JVM may have died
        session.stop()
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=30)
    SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001


def run_tasks(
    session: SparkSession, task: Callable[[Input], T], inputs: list[Input], rows: Callable[[Input], int],
    log: structlog.stdlib.BoundLogger,
) -> list[T]:  # fmt: skip
    """`[task(i) for i in inputs]` with one Spark task per input; results are in the order of the inputs.

    The numbers of finished tasks and of their rows are logged; `rows` returns the number of rows of an input. A task
    may run twice (retry, speculation), so the names of its files must depend on their content only. Each result is
    returned once. Raises UnavailableError when the JVM dies, or a worker dies repeatedly.
    """
    context = session.sparkContext
    done, done_rows, all_rows = -1, context.accumulator(0), sum(rows(item) for item in inputs)

    def counted(item: Input) -> T:
        result = task(item)
        done_rows.add(rows(item))
        return result

    def progress() -> None:
        nonlocal done
        if (finished := _finished_tasks(context)) != done:
            done = finished
            log.info("spark tasks", done=done, of=len(inputs), rows=done_rows.value, of_rows=all_rows)

    return _awaited(context, lambda: context.parallelize(inputs, max(1, len(inputs))).map(counted).collect(), progress)


def collected(frame: DataFrame, log: structlog.stdlib.BoundLogger) -> list[Row]:
    """`frame.collect()` with progress in the log: finished tasks of the running stages.

    Raises BadInputError when a worker raised it, UnavailableError for any other failure.
    """
    context = frame.sparkSession.sparkContext
    done = -1

    def progress() -> None:
        nonlocal done
        if (finished := _finished_tasks(context)) != done:
            done = finished
            log.info("spark tasks", done_in_running_stages=done)

    return _awaited(context, frame.collect, progress)


def _awaited(context: SparkContext, work: Callable[[], T], progress: Callable[[], None]) -> T:
    """Run `work` in a thread. The main thread waits in Python rather than in a JVM call, so it handles signals."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(work)
        try:
            while wait([running], timeout=POLL_SECONDS).not_done:
                progress()
            return running.result()
        except (PySparkException, Py4JError, OSError) as error:
            if (refused := _REFUSED.search(str(error))) is not None:
                raise BadInputError(refused[1], got="see the lines above") from error
            raise UnavailableError("a Spark task failed", got=str(error), hint="see the lines above; rerun") from error
        finally:
            if not running.done():
                context.cancelAllJobs()


def _finished_tasks(context: SparkContext) -> int:
    tracker = context.statusTracker()
    stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
    return sum(stage.numCompletedTasks for stage in stages if stage is not None)

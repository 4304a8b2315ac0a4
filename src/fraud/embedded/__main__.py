"""`python -m fraud.embedded up | demo | drill | quiet-hour | services | down`."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fraud.embedded import lock, services
from fraud.embedded.demo import Demo, Source
from fraud.embedded.fire_drill.drill import Drill
from fraud.embedded.fire_drill.quiet_hour import QuietHour
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.stack import Stack
from fraud.errors import FraudError
from fraud.settings import Settings

_STARTED = time.monotonic()


def progress(line: str) -> None:
    """Print one line of progress with the seconds since the start of the command."""
    print(f"{time.monotonic() - _STARTED:6.0f} s  {line}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fraud.embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start every service and return")
    up.add_argument("--only", nargs="*", default=[], metavar="SERVICE", help="start only these: valkey, mlflow, ...")
    _add_stream(up)
    up.add_argument("--free-ports", action="store_true", help="use free ports instead of the default ones")
    commands.add_parser("services", help="list the services and their state")
    commands.add_parser("down", help="stop every service")
    drill = commands.add_parser(
        "drill", help="inject a fault for each alert and check that the alert fires and resolves"
    )
    drill.add_argument("--alert", nargs="*", default=[], help="only the faults of these alerts")
    drill.add_argument("--fresh", action="store_true", help="start a new drill, also after an interrupted one")
    quiet = commands.add_parser("quiet-hour", help="send a day of payments and check that no alert fires")
    quiet.add_argument("--minutes", type=float, default=60.0, help="duration")
    demo = commands.add_parser("demo", help="start every service and run the main job once, end to end")
    demo.add_argument("--source", default="", help="file or URI to import; default: simulated transactions")
    demo.add_argument("--mapping", type=Path, help="mapping of the columns of --source")
    demo.add_argument("--days", type=int, default=150, help="days to simulate")
    demo.add_argument("--users", type=int, default=1500, help="users to simulate")
    demo.add_argument("--seed", type=int, default=1, help="seed of the simulation")
    _add_stream(demo)
    demo.add_argument("--detach", action="store_true", help="return when the demo is done; `down` stops the stack")
    return parser.parse_args()


def _add_stream(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, default=None,
        help="also run a Kafka broker and a consumer of its topic; default: as at the last start",
    )  # fmt: skip


def _start(stack: Stack, only: Sequence[str] = ()) -> Stack:
    """Start every service that does not run. Returns the stack with its ports, which may have changed."""
    services.end_leftover_processes(stack, progress)
    stack = services.choose_free_ports(stack, progress)
    stack.write_shell_environment()
    _repair_after_drill(stack)  # a process that a drill stopped would not become ready
    services.start_all(stack, progress, only)
    _repair_after_drill(stack)
    return stack


def _services(stack: Stack) -> int:
    """Print every service with its address. Returns 0 if all are ready, 1 if one is not or none was started."""
    states = services.states(stack)
    for state in states:
        print(f"{state.name:<24}{state.problem or 'ready':<12}  {state.page}".rstrip())
    bad = [state.name for state in states if state.problem]
    if not states:
        print("no service runs; start with: make start, or make demo")
    elif bad:
        print(f"\n`make start` restarts them; logs: {', '.join(str(stack.log(name)) for name in bad)}")
    return 1 if bad or not states else 0


def _repair_after_drill(stack: Stack) -> None:
    """Undo the faults of a drill that was killed."""
    for kind in Undo(stack).repair_all():
        progress(f"undid a fault of a killed drill: {kind}")


def _drill(stack: Stack, only: list[str], *, fresh: bool) -> None:
    _interrupt_on_signals()  # so that every fault is undone
    try:
        Drill(stack, progress).run(only, fresh=fresh)
    except KeyboardInterrupt:
        progress("drill interrupted; its faults are undone, and the next drill of all alerts continues it")
        sys.exit(128 + signal.SIGINT)


def _interrupt_on_signals() -> None:
    """Handle SIGTERM and SIGHUP like Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _wait_for_signal() -> None:
    progress("the stack runs until Ctrl-C")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def main() -> None:
    """Entry point. After a failure, it exits with the error's message and code; started services keep running."""
    arguments = parse_arguments()
    try:
        stack = Stack.open(
            Settings.load(), usual_ports=not getattr(arguments, "free_ports", False),
            stream=getattr(arguments, "stream", None),
        )  # fmt: skip
        if arguments.command == "services":
            sys.exit(_services(stack))
        elif arguments.command == "drill":
            with lock.exclusive(stack.run):
                _drill(stack, arguments.alert, fresh=arguments.fresh)
        elif arguments.command == "quiet-hour":
            _interrupt_on_signals()
            with lock.exclusive(stack.run):
                QuietHour(stack, progress).run(arguments.minutes)
        elif arguments.command == "down":
            with lock.exclusive(stack.run, end_other=True):
                _repair_after_drill(stack)
                services.stop_all(stack, progress)
        elif arguments.command == "up":
            with lock.exclusive(stack.run):
                _start(stack, arguments.only)
        else:
            source = Source.of(arguments)  # a wrong source is reported before any service starts
            with lock.exclusive(stack.run):
                stack = _start(stack)
                Demo(stack, source, progress).run()
            if not arguments.detach:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
                _wait_for_signal()
                services.stop_all(stack, progress)
    except FraudError as error:
        print(f"\nfailed: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        progress("interrupted; started services keep running, `make down` stops them")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()

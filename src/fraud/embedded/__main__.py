"""`python -m fraud.embedded up | demo | status | down`."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fraud.embedded import lock, services
from fraud.embedded.demo import Demo, Source
from fraud.embedded.fire_drill.drill import Drill
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.stack import Stack
from fraud.errors import FraudError
from fraud.settings import Settings

_BEGAN = time.monotonic()


def say(line: str) -> None:
    """One line of progress, with the seconds since the command began."""
    print(f"{time.monotonic() - _BEGAN:6.0f} s  {line}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fraud.embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start every service and return")
    up.add_argument("--only", nargs="*", default=[], metavar="SERVICE", help="these alone: valkey, mlflow, ...")
    up.add_argument("--free-ports", action="store_true", help="any free ports, not the usual ones")
    commands.add_parser("status", help="what runs")
    commands.add_parser("down", help="stop everything")
    drill = commands.add_parser("drill", help="inject a fault for each alert, and see it ring")
    drill.add_argument("--alert", nargs="*", default=[], help="these alone")
    demo = commands.add_parser("demo", help="start everything and run the main job once, end to end")
    demo.add_argument("--source", default="", help="a file or URI to import; without it a world is simulated")
    demo.add_argument("--mapping", type=Path, help="how to read --source")
    demo.add_argument("--days", type=int, default=150)
    demo.add_argument("--users", type=int, default=1500)
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument("--detach", action="store_true", help="return when done; `down` stops the stack")
    return parser.parse_args()


def _start(stack: Stack, only: Sequence[str] = ()) -> Stack:
    """Start what does not run, and return the stack with the ports it has then."""
    services.end_leftovers(stack, say)
    stack = services.settle_ports(stack, say)
    stack.write_shell_environment()
    _put_right(stack)  # what stands still would never get ready
    services.start_all(stack, say, only)
    _put_right(stack)
    return stack


def _status(stack: Stack) -> int:
    """Print every service with its address. 0: all are ready; 1: one is not, or none was started."""
    states = services.states(stack)
    for state in states:
        print(f"{state.name:<24}{state.trouble or 'ready':<12}  {state.page}".rstrip())
    bad = [state.name for state in states if state.trouble]
    if not states:
        print("nothing runs: make start, or make demo")
    elif bad:
        print(f"\nmake start starts what is not ready; why: {', '.join(str(stack.log(name)) for name in bad)}")
    return 1 if bad or not states else 0


def _put_right(stack: Stack) -> None:
    """What a drill that was killed left broken."""
    for what in Undo(stack).everything():
        say(f"a drill was killed; put right what it left: {what}")


def _drill(stack: Stack, only: list[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: every fault ends as it was before
        signal.signal(number, signal.default_int_handler)
    try:
        Drill(stack, say).run(only)
    except KeyboardInterrupt:
        say("the drill was interrupted; what it broke is put right")
        sys.exit(128 + signal.SIGINT)


def _stay() -> None:
    say("the stack stays up until Ctrl-C")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def main() -> None:
    """Entry point. A failure ends with its message and exit code; what was started stays up to be looked at."""
    given = arguments()
    try:
        stack = Stack.open(Settings.load(), usual_ports=not getattr(given, "free_ports", False))
        if given.command == "status":
            sys.exit(_status(stack))
        elif given.command == "drill":
            with lock.alone(stack.run):
                _drill(stack, given.alert)
        elif given.command == "down":
            with lock.alone(stack.run, end_other=True):
                _put_right(stack)
                services.stop_all(stack, say)
        elif given.command == "up":
            with lock.alone(stack.run):
                _start(stack, given.only)
        else:
            source = Source.of(given)  # what is wrong with it shows before anything starts
            with lock.alone(stack.run):
                stack = _start(stack)
                Demo(stack, source, say).run()
            if not given.detach:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
                _stay()
                services.stop_all(stack, say)
    except FraudError as error:
        print(f"\nfailed: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted; what was started stays up: make down stops it")
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()

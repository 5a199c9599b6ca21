"""Runs a command that ends with the process that runs this; a script of its own.

Usage: guard_script.py FD COMMAND...; FD is the reading end of a pipe whose other end only the
process that started this holds. It leads the group of its session, and ends as the command does.
"""

import os
import resource
import signal
import sys
import threading


def wait_for_starter(pipe: int) -> None:
    """Kills the whole group once the process that holds the other end of the pipe is gone."""
    while os.read(pipe, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def run_command_line(pipe: int, command: list[str]) -> None:
    """Takes the command's place in a forked process."""
    os.close(pipe)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be run: {error}\n")
        sys.stderr.flush()
        os._exit(127)


def main() -> None:
    """Runs the command line of this script."""
    pipe, command = int(sys.argv[1]), sys.argv[2:]
    child = os.fork()
    if not child:
        run_command_line(pipe, command)
    threading.Thread(target=wait_for_starter, args=(pipe,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()

"""Runs a command on a terminal of its own, and does what its steps say.

    terminal.py COLUMNSxROWS STEP.. -- COMMAND..

`wait:TEXT` waits until the command has written it, `send:TEXT` types it (`\\x03` is Ctrl-C, `\\x04` the end of input),
`touch:FILE` makes a file for whoever waits for it, `hang:up` closes the terminal.
What was written goes to standard output as it came; the exit code is the command's.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

SECONDS = 60

split = sys.argv.index("--")
size, steps, command = sys.argv[1], sys.argv[2:split], sys.argv[split + 1 :]
columns, rows = (int(part) for part in size.split("x"))

child, terminal = pty.fork()
if child == 0:
    # Not before the size is known: the program reads it when it starts.
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.environ["TERM"] = "xterm-256color"
    os.execvp(command[0], command)

written = b""
deadline = time.monotonic() + SECONDS


def read():
    """More of what is written; false once there is no more."""
    global written
    ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
    if not ready:
        os.kill(child, 9)
        sys.exit(f"not within {SECONDS} s; written was {written!r}")
    try:
        more = os.read(terminal, 65536)
    except OSError:
        more = b""
    written += more
    return bool(more)


seen = 0
for step in steps:
    name, _, text = step.partition(":")
    text = text.encode().decode("unicode_escape").encode("latin-1") if name == "send" else text.encode()
    if name == "wait":
        while (found := written.find(text, seen)) < 0:
            if not read():
                sys.exit(f"ended before it wrote {text!r}; written was {written!r}")
        seen = found + len(text)
    elif name == "send":
        os.write(terminal, text)
    elif name == "touch":
        open(text, "wb").close()
    elif name == "hang":
        os.close(terminal)
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    else:
        sys.exit(f"no step: {step}")
while read():
    pass
_, status = os.waitpid(child, 0)
sys.stdout.buffer.write(written)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(status))

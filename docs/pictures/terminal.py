"""Draws docs/pictures/terminal.svg: `dawdle dead list` and `dawdle stats --watch`, as they are on a terminal.

    cargo build -p dawdle-cli -p sqs-model
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install pyte==0.8.2
    /tmp/venv/bin/python docs/pictures/terminal.py

The queues are those of the model of SQS, with dead letters like those of ops/drill.md; a replay goes on meanwhile.
"""

import html
import json
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import fcntl
import tempfile
import termios
import time
import urllib.request

import pyte

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / "target" / "debug"
COLUMNS, ROWS = 142, 12
LETTERS = 1_500


def letter(number):
    kind, handler, error, version = [
        ("order.placed", "charge", f"no price list for order {7000 + number} in shard 0x3de", "1.5"),
        ("trial.ending", "remind", f"no template v2 for account {number}", "1.5"),
    ][number % 5 > 2]
    if number < 12:
        kind, handler, error, version = "order.placed", "charge", f"card {number} was refused", "1.4"
    minute, second = divmod(number * 1_800 // LETTERS, 60)
    return {
        "specversion": "1.0", "id": f"019be3a0-0000-7000-8000-{number:012x}", "source": "shop", "type": kind,
        "time": f"2026-01-22T02:{10 + minute:02}:{second:02}.000Z", "handler": handler, "attempt": 3, "data": {},
        "deadreason": "attempts", "deaderror": error, "deadversion": version,
        "deadtime": f"2026-01-22T02:{10 + minute:02}:{second:02}.000Z",
    }


def bury(url):
    bodies = [json.dumps(letter(number)) for number in range(LETTERS)]
    for first in range(0, LETTERS, 10):
        entries = [{"Id": str(i), "MessageBody": body} for i, body in enumerate(bodies[first : first + 10])]
        body = json.dumps({"QueueUrl": f"{url}/000000000000/orders-dead", "Entries": entries}).encode()
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.SendMessageBatch"}
        urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()


def on_terminal(arguments, env, seconds=None):
    """The screen once the command has ended, or as it is after so long."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.execve(PROGRAMS / "dawdle", ["dawdle", *arguments], env | {"TERM": "xterm-256color"})
    end = time.monotonic() + (seconds or 60)
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        try:
            more = os.read(terminal, 65536) if ready else None
        except OSError:
            more = b""
        if more == b"":
            break
        if more:
            stream.feed(more)
    lines = [[screen.buffer[row][column] for column in range(COLUMNS)] for row in range(ROWS)]
    if seconds:
        os.kill(child, signal.SIGINT)
    while True:
        try:
            if not os.read(terminal, 65536):
                break
        except OSError:
            break
    os.waitpid(child, 0)
    while lines and all(cell.data == " " for cell in lines[-1]):
        lines.pop()
    return lines


def prompt(text):
    return [pyte.screens.Char(character, fg="prompt") for character in f"$ {text}"]


def svg(lines):
    wide, high, left, top = 7.8, 18, 16, 40
    width, height = int(COLUMNS * wide + 2 * left), int(len(lines) * high + top + 14)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#1b1f24"/>',
        *(f'<circle cx="{20 + 18 * i}" cy="18" r="6" fill="{c}"/>' for i, c in enumerate(["#ff5f56", "#ffbd2e", "#27c93f"])),
        '<g font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="13">',
    ]
    for row, line in enumerate(lines):
        column = 0
        while column < len(line):
            first, cell = column, line[column]
            while column < len(line) and (line[column].fg, line[column].bold) == (cell.fg, cell.bold):
                column += 1
            text = "".join(cell.data for cell in line[first:column])
            if text.strip():
                colour = "#7ee787" if cell.fg == "prompt" else "#ffffff" if cell.bold else "#c9d1d9"
                bold = ' font-weight="bold"' if cell.bold else ""
                lead = len(text) - len(text.lstrip())
                text = text.strip()
                out.append(
                    f'<text x="{left + (first + lead) * wide:.1f}" y="{top + row * high + 8}" fill="{colour}"{bold}'
                    f' textLength="{len(text) * wide:.1f}">{html.escape(text).replace(" ", "&#160;")}</text>'
                )
    return "\n".join([*out, "</g>", "</svg>", ""])


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    endpoint = subprocess.Popen([PROGRAMS / "sqs-model"], stdout=subprocess.PIPE, text=True)
    try:
        url = endpoint.stdout.readline().strip()
        env = {
            "PATH": os.environ["PATH"], "HOME": folder, "DAWDLE_SQS_QUEUE": "orders", "DAWDLE_SQS_ENDPOINT_URL": url,
            "DAWDLE_SQS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }
        subprocess.run([PROGRAMS / "dawdle", "init"], env=env, check=True, stdout=subprocess.DEVNULL)
        bury(url)
        picture = [prompt("dawdle dead list"), *on_terminal(["dead", "list"], env), []]
        replay = ["dead", "replay", "--version", "1.5", "--rate", "50"]
        picture += [prompt("dawdle " + " ".join(replay) + " &"), prompt("dawdle stats --watch 1")]
        replaying = subprocess.Popen([PROGRAMS / "dawdle", *replay], env=env, stdout=subprocess.DEVNULL)
        picture += on_terminal(["stats", "--watch", "1"], env, seconds=14.5)
        replaying.send_signal(signal.SIGINT)
        replaying.wait()
    finally:
        endpoint.terminate()
        endpoint.wait()
(ROOT / "docs" / "pictures" / "terminal.svg").write_text(svg(picture))

"""A program in a terminal of a given width, and what is on its screen in the end."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time


def run_in_terminal(command, columns, patience=180, env=None, **options):
    """Run a command in a pseudo-terminal; return its exit code and the lines that were ever on its screen."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in {**os.environ, **(env or {})}.items() if k not in ("COLUMNS", "LINES")}
    options["env"] = environment
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, **options)
    os.close(theirs)
    written, until = b"", time.monotonic() + patience
    try:
        while time.monotonic() < until:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    written += os.read(ours, 65536)
                except OSError:  # Linux says so at the end
                    break
            elif process.poll() is not None:
                break
    finally:
        process.kill()
        os.close(ours)
    return process.wait(), screen(written.decode(errors="replace"), columns)


def screen(text, columns):
    """Return the lines of a screen to which a text was written: line feeds, returns, and moves upwards."""
    lines, row, column = [[]], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|[\s\S]", text):
        if part == "\n":
            row, column = row + 1, 0
        elif part == "\r":
            column = 0
        elif part.startswith("\x1b["):
            row = max(0, row - int(part[2:-1] or 1)) if part.endswith("A") else row
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append([])
            lines[row] += " " * (column + 1 - len(lines[row]))
            lines[row][column] = part
            column += 1
        while len(lines) <= row:
            lines.append([])
    return ["".join(line).rstrip() for line in lines]

"""What train.py and evaluate.py say and leave."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def refusal(outcome):
    """Return the last line of what a program said before it exited with code 2."""
    code, out, err = outcome
    assert code == 2
    assert "Traceback" not in out + err
    assert "Error executing job" not in err, "Hydra says nothing of its own"
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in [folder, *folder.rglob("*")]
    }

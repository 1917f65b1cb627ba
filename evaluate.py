"""Evaluate checkpoints of train.py on unseen classes, without training.

python evaluate.py checkpoint=outputs/.../checkpoints/best.ckpt
"""

from pathlib import Path

from divconq_pl.app.command import run_command
from divconq_pl.app.evaluate import main

if __name__ == "__main__":
    run_command(main, Path(__file__).parent / "conf", "evaluate")

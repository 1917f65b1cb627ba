"""Train an embedding by divide and conquer.

python train.py loss=margin dataset=glyphs divide.split_depth=3
python train.py --help
"""

from pathlib import Path

from divconq_pl.app.command import run_command
from divconq_pl.app.train import main

if __name__ == "__main__":
    run_command(main, Path(__file__).parent / "conf", "train")

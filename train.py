"""Train an embedding by divide and conquer.

python train.py loss=margin dataset=glyphs divide.split_depth=3
python train.py --help
"""

from pathlib import Path

from divconq_pl.app.scripts import train

if __name__ == "__main__":
    train(Path(__file__).parent / "conf")

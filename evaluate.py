"""Evaluate checkpoints of train.py on unseen classes, without training.

python evaluate.py checkpoint=outputs/.../checkpoints/best.ckpt
"""

from pathlib import Path

from divconq_pl.app.scripts import evaluate

if __name__ == "__main__":
    evaluate(Path(__file__).parent / "conf")

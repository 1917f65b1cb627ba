"""Compare runs of train.py: python -m divconq_pl.compare RUN RUN ... [--to FILE]."""

from divconq_pl.app.comparing import main

if __name__ == "__main__":
    main()

"""``python -m qin_zoo``: the same as ``qin-zoo``."""

from qin_zoo.cli import main

if __name__ == "__main__":
    main()

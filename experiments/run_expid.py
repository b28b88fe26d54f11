"""``qin-zoo run`` under the name and with the arguments of FuxiCTR's script, whose own file works too.

python experiments/run_expid.py --config DIR --expid ID --gpu N

As FuxiCTR's script does, it works from a fixed folder: paths in configurations are relative to the repository.
DIR is relative to where you are, or to this script.
"""

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train, evaluate and predict one experiment.")
    parser.add_argument("--config", type=Path, default=Path("QIN"), help="The config directory.")
    parser.add_argument("--expid", type=str, default="QIN_sample", help="The experiment id to run.")
    parser.add_argument("--gpu", type=int, default=-1, help="The gpu index, -1 for cpu.")
    args = parser.parse_args()
    config = args.config.resolve() if args.config.exists() else HERE / args.config
    os.chdir(HERE.parent)
    sys.path.insert(0, str(HERE.parent))
    from qin_zoo.cli import main

    main(["run", args.expid, "--config", str(config), "--gpu", str(args.gpu)])

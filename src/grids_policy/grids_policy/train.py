"""./grids train --config config/train/demo.yaml --out runs/demo: train or fine-tune a policy; run again to resume.

Writes RUN/checkpoint (LeRobot's layout), RUN/log.jsonl, TensorBoard events and the state to go on from. Ctrl-C saves.
"""

import argparse
import socket
import sys
import time
from pathlib import Path

from grids_policy.config import ConfigError
from grids_policy.train_config import TrainConfig, load_train_config


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="grids train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see config/train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an existing run is continued")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="override one field, repeatable"
    )
    return parser.parse_args(argv)


def _process(rank: int, config: TrainConfig, out: str, port: int) -> None:
    import torch

    from grids_policy.train_run import Log, Run, join

    world = join(rank, config.processes, port)
    folder, began = Path(out), time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:7.1f} s] {text}\n")
        sys.stderr.flush()

    run = Run(config, folder, world)
    if world.first:
        trained = sum(p.numel() for p in run.module.parameters() if p.requires_grad)
        say(f"{len(run.feed.samples)} frames, {trained / 1e6:.2f} M parameters, step {run.progress.step}, {run.device}")
    log = Log(folder, config, say) if world.first else None
    try:
        run.train(log)
    except KeyboardInterrupt:
        if world.first:
            run.save()
            say(f"stopped and saved at step {run.progress.step}; run the same command to go on")
    if world.size > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        config = load_train_config(arguments.config, tuple(arguments.set))
        arguments.out.mkdir(parents=True, exist_ok=True)
        if config.processes == 1:
            _process(0, config, str(arguments.out), 0)
        else:
            from torch import multiprocessing

            multiprocessing.spawn(
                _process, (config, str(arguments.out), _free_port()), nprocs=config.processes, join=True
            )
    except (ConfigError, ValueError, OSError) as error:
        sys.stderr.write(f"train: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

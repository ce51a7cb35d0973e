#!/usr/bin/env python3
"""Trains every policy a few steps in integer and in simulated arithmetic with the same options and random bits, and
compares word lengths of every tensor at every step, and losses side by side. Both keep float32 between layers.

Both compute the same numbers up to float32 rounding. A difference of one ulp moves a code now and then, and a fresh
network amplifies that from step to step: losses drift apart as those of float32 on one and on two threads do (the first
row), and a policy that decides from tensors may then decide otherwise. So widths must be equal where they follow a
plan; where they follow data, their equal share is shown.

    compare_arithmetic.py --data-dir DIR [--recipe cifar10-resnet20] [--steps 30] [--out runs/arithmetic]
                          [--policy apt,cpt,...]

Exits with 1 when planned word lengths differ. `plot_runs.py pairs OUT` draws the curves.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTROL = "float32"  # on all threads and on one
NOT_COMPARED = {"float32", "bf16", "skeleton"}  # of all that there are: nothing quantised, or an example
PLANNED = ("static", "sbm", "cpt", "random", "schedule")  # their widths do not depend on data
# Options without which a policy does nothing in so few steps, or cannot run at all.
OPTIONS = {
    "schedule": ["precision.options.preset=ldp-1"],
    "muppet": ["precision.options.quantise_operands=on"],  # by default in integer arithmetic alone
    "ldp": ["precision.options.lr_beta=1"],
    "cpt": ["precision.options.cycles=1"],
    "random": ["precision.options.every=3"],
    "pfq": ["precision.options.eval_every=5", "precision.options.epsilon=0.15", "precision.options.alpha=0.4"],
    "fractrain": ["precision.options.eval_every=5", "precision.options.epsilon=0.15",
                  "precision.options.alpha=0.4"],
}


def policies(command):
    lines = subprocess.run([command, "policies"], check=True, capture_output=True, text=True).stdout.splitlines()
    names = [line.split()[0] for line in lines[1:] if line and not line.startswith("`")]
    return [name for name in names if name not in NOT_COMPARED]


def train(arguments, policy, arithmetic):
    run = arguments.out / f"{policy.replace('/', '-')}-{arithmetic}"
    if not (run / "metrics.jsonl").is_file():
        command = [arguments.command, "train", arguments.recipe, "--policy", policy, "--arithmetic", arithmetic,
                   "--epochs", "1", "--data-dir", arguments.data_dir, "--out", run]
        images = arguments.steps * arguments.batch
        for setting in (f"data.train_images={images}", "data.test_images=256", f"data.batch_size={arguments.batch}",
                        "train.log_every=1", f"optimizer.learning_rate={arguments.learning_rate}",
                        "precision.between=float32", *OPTIONS.get(policy, [])):
            command += ["--set", setting]
        if policy == CONTROL and arithmetic == "simulated":
            command += ["--threads", "1"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"compare_arithmetic: {policy}, {arithmetic}: {done.stderr.strip().splitlines()[-1]}")
    with (run / "metrics.jsonl").open() as file:
        losses = [line["loss"] for line in map(json.loads, file) if line["kind"] == "step"]
    with (run / "precision.jsonl").open() as file:
        decisions = [json.loads(line) for line in file]
    return losses, widths_in_force(decisions, len(losses))


def widths_in_force(decisions, steps):
    """[step][layer, tensor]: a width holds until the next line of its tensor."""
    result, current = [], {}
    for step in range(steps):
        current |= {(line["layer"], line["tensor"]): line["bits"] for line in decisions if line["step"] == step}
        result.append(dict(current))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=str(ROOT / "recipes/cifar10-resnet20.toml"))
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--policy", help="policies, separated by commas; default: every one")
    parser.add_argument("--command", default=ROOT / "build/release/bin/bitdial")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/arithmetic"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = arguments.policy.split(",") if arguments.policy else ["float32", "static:16/16/16", *policies(arguments.command)]

    print(f"{'policy':<16} {'bits':>18} {'equal widths':>12} {'first loss':>21} {'last loss':>21} {'largest gap':>12}")
    failed = False
    for policy in names:
        losses, widths = train(arguments, policy, "integer")
        simulated_losses, simulated_widths = train(arguments, policy, "simulated")
        pairs = [(step, key, mine.get(key), other.get(key))
                 for step, (mine, other) in enumerate(zip(widths, simulated_widths))
                 for key in sorted(mine.keys() | other.keys())]
        differing = [pair for pair in pairs if pair[2] != pair[3]]
        failed |= bool(differing) and policy.split(":")[0] in PLANNED
        equal = "all" if not differing else f"{100 * (1 - len(differing) / len(pairs)):.1f} %"
        gap = max(abs(a - b) / abs(b) for a, b in zip(losses, simulated_losses))
        chosen = sorted({pair[2] for pair in pairs if pair[2] is not None})
        print(f"{policy:<16} {' '.join(map(str, chosen)):>18} {equal:>12} {losses[0]:>10.5f} {simulated_losses[0]:>10.5f} "
              f"{losses[-1]:>10.5f} {simulated_losses[-1]:>10.5f} {100 * gap:>10.2f} %", flush=True)
        for step, (layer, tensor), mine, other in differing[:3]:
            print(f"  step {step}, {layer}, {tensor}: integer {mine}, simulated {other} bits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

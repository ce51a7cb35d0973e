#!/usr/bin/env python3
"""Runs side by side as a Markdown table: accuracy, bits, analytic cost, measured step time, size, arithmetic.

    bitdial report RUN... --no-layers --json report.json
    bitdial bench step --model resnet20-cifar --batch 128 --policy all --json steps.json
    scripts/runs_table.py report.json [--steps steps.json ...]

Step times are those of `bench step`, over PyTorch float32's of the same file; a run is looked up by its policy.
"""
import argparse
import json
import os


def percent(x):
    return "" if x is None else f"{100 * x:.2f} %"


def step_ratios(paths):
    """Policy -> time of a step over PyTorch float32's."""
    ratios = {}
    for path in paths:
        with open(path) as file:
            rows = json.load(file)
        rows = rows["rows"] if isinstance(rows, dict) else rows
        times = {row["name"]: row["median_ms"] for row in rows}
        for name, time in times.items():
            ratios[name] = time / times["pytorch-float32"]
    ratios["float32"] = 1.0
    return ratios


def row_of(run, ratios):
    analytic = run["analytic"]
    bits = analytic["mean_bits"]
    macs = run["macs_percent"]
    ratio = ratios.get(run["policy"], ratios.get(run["policy"].split(":")[0]))
    # CPT evaluates at Bmax, at whatever precision its last step had.
    best = run["best_final_accuracy"] if run.get("best_final_accuracy") is not None else run["best_accuracy"]
    last = run["last_final_accuracy"] if run.get("last_final_accuracy") is not None else run["last_accuracy"]
    arithmetic = ", ".join(f"{name} {share:.0f}" for name, share in sorted(macs.items()) if share >= 0.5)
    return [
        os.path.basename(os.path.normpath(run["run"])),
        f"`{run['policy']}`",
        f"{percent(best)} / {percent(last)}",
        f"{bits['w']:.1f} / {bits['x']:.1f} / {bits['dy']:.1f}",
        f"{analytic['ratio_fw8bw8']:.3f}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{analytic['size_ratio']:.2f}",
        arithmetic,
    ]


def mean_text(value, factor=1.0, digits=2):
    return f"{factor * value['mean']:.{digits}f} ± {factor * value['deviation']:.{digits}f}"


def row_of_mean(mean):
    """Runs that differ in their seed or fold alone; +-: the standard deviation of a run."""
    best, last = ((mean.get(f"{which}_final_accuracy") or mean[f"{which}_accuracy"]) for which in ("best", "last"))
    return [
        f"mean of {len(mean['mean_of'])}",
        "",
        f"{mean_text(best, 100)} % / {mean_text(last, 100)} %",
        " / ".join(f"{mean[key]['mean']:.1f}" for key in ("bits_w", "bits_x", "bits_dy")),
        f"{mean['ratio_fw8bw8']['mean']:.3f}",
        "",
        f"{mean['size_ratio']['mean']:.2f}",
        "",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="+", help="files of `bitdial report --json`")
    parser.add_argument("--steps", nargs="*", default=[], help="files of `bitdial bench step --json`")
    arguments = parser.parse_args()
    ratios = step_ratios(arguments.steps)
    head = ["run", "policy", "accuracy best / last", "bits W / X / dY", "BitOPs / FW8BW8", "step / float32",
            "size / float32", "% of MACs"]
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for path in arguments.report:
        with open(path) as file:
            for run in json.load(file):
                print("| " + " | ".join((row_of_mean(run) if "mean_of" in run else row_of(run, ratios))) + " |")


if __name__ == "__main__":
    main()

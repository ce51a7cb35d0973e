#!/usr/bin/env python3
"""Pictures of training runs, from what a run directory records.

    plot_runs.py precision RUN            word lengths by layer over time, and the mean of each operand
    plot_runs.py gate RUN                 what the gate of dfq or fractrain chose: cost and target, bits, options
    plot_runs.py learning RUN [RUN ...]   loss, test accuracy and mean word length of several runs
    plot_runs.py pairs FOLDER             loss of integer and simulated arithmetic, one panel for each policy
                                          (FOLDER/POLICY-integer, FOLDER/POLICY-simulated: compare_arithmetic.py)

Needs matplotlib (`pip install matplotlib`).
"""
import argparse
import json
import pathlib
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

OPERANDS = {"w": "W", "x": "X", "dy_bprop": "dY (BPROP)"}
FLOAT_BITS = 32
SMOOTHING = 0.05  # share of a new step in the drawn training loss


def read_lines(path):
    if not path.is_file():
        sys.exit(f"plot_runs: {path} is missing; is {path.parent} a run directory?")
    with path.open() as file:
        return [json.loads(line) for line in file if line.strip()]


def steps_of(run):
    return [line for line in read_lines(run / "metrics.jsonl") if line["kind"] == "step"]


def epochs_of(run):
    return [line for line in read_lines(run / "metrics.jsonl") if line["kind"] == "epoch"]


def word_lengths(run):
    """{operand: (layers, steps, bits[layer, interval])}; a width holds from the step of its line to the next one's."""
    decisions = read_lines(run / "precision.jsonl")
    end = max(line["step"] for line in steps_of(run)) + 1
    layers = list(dict.fromkeys(line["layer"] for line in decisions))
    row = {layer: index for index, layer in enumerate(layers)}
    result = {}
    for tensor in OPERANDS:
        lines = [line for line in decisions if line["tensor"] == tensor]
        edges = sorted({line["step"] for line in lines} | {0, end})
        bits = np.full((len(layers), len(edges) - 1), np.nan)
        column = {step: index for index, step in enumerate(edges)}
        for line in lines:
            bits[row[line["layer"]], column[line["step"]] :] = line["bits"]
        result[tensor] = (layers, np.array(edges), bits)
    return result


def plot_precision(run, output):
    lengths = word_lengths(run)
    figure, axes = plt.subplots(len(OPERANDS), 1, figsize=(8, 7.5), sharex=True, constrained_layout=True)
    widest = max(np.nanmax(np.where(bits < FLOAT_BITS, bits, np.nan)) for _, _, bits in lengths.values())
    colours = plt.get_cmap("viridis").with_extremes(over="lightgrey", bad="white")
    for axis, (tensor, (layers, edges, bits)) in zip(axes, lengths.items()):
        mesh = axis.pcolormesh(edges, np.arange(len(layers) + 1), bits, cmap=colours, vmin=2, vmax=max(widest, 8),
                               rasterized=True)
        axis.invert_yaxis()
        axis.set_yticks(np.arange(len(layers)) + 0.5, layers, fontsize=5)
        axis.set_title(f"{OPERANDS[tensor]}: word length by layer", fontsize=9, loc="left")
    axes[-1].set_xlabel("step")
    figure.colorbar(mesh, ax=axes, label="bits (grey: float32)", extend="max", shrink=0.6)
    figure.savefig(output, dpi=80)


def plot_gate(run, output):
    choices = [line for line in read_lines(run / "precision.jsonl") if "shares" in line.get("evidence", {})]
    if not choices:
        sys.exit(f"plot_runs: the log of {run} has no choices of a gate (policies dfq and fractrain)")
    at = [line["step"] for line in choices]
    evidence = [line["evidence"] for line in choices]
    figure, (cost, bits, options) = plt.subplots(3, 1, figsize=(8, 6.5), sharex=True, constrained_layout=True)
    cost.plot(at, [one["cp"] for one in evidence], linewidth=1, label="cp")
    cost.step(at, [one["target"] for one in evidence], where="post", linewidth=1, linestyle="--", label="target")
    cost.set_ylabel("% of float32's cost")
    cost.legend(fontsize=7)
    steps = steps_of(run)
    for key, style in (("bits_a", "--"), ("bits_dy", ":")):
        bits.plot([line["step"] for line in steps], [line[f"{key}_by_macs"] for line in steps], style, linewidth=1,
                  label={"bits_a": "X", "bits_dy": "dY"}[key])
    bits.set_ylabel("mean bits, by MACs")
    bits.legend(fontsize=7)
    names = [f"{x}/{dy}" for x, dy in zip(gate_bits(run, "x"), gate_bits(run, "dy_bprop"))]
    options.stackplot(at, np.transpose([one["shares"] for one in evidence]), labels=names,
                      colors=plt.get_cmap("viridis")(np.linspace(0, 1, len(names))))
    options.legend(fontsize=7, title="bits of X/dY", title_fontsize=7, loc="upper right")
    options.set_ylabel("share of samples and blocks")
    options.set_xlabel("step")
    figure.savefig(output, dpi=80)


def gate_bits(run, tensor):
    """The bits of an operand that a gate chooses among, in the order of its options."""
    for line in read_lines(run / "precision.jsonl"):
        if line["tensor"] == tensor and line["reason"].startswith("the gate chooses among"):
            return re.findall(r"\d+", line["reason"])
    return []


def smooth(values):
    drawn, mean = [], values[0]
    for value in values:
        mean += SMOOTHING * ((value if value is not None else mean) - mean)
        drawn.append(mean)
    return drawn


def plot_learning(runs, output):
    figure, (loss, accuracy, bits) = plt.subplots(3, 1, figsize=(8, 8), constrained_layout=True)
    for run in runs:
        steps, epochs = steps_of(run), epochs_of(run)
        x = [line["step"] for line in steps]
        (curve,) = loss.plot(x, smooth([line["loss"] for line in steps]), label=run.name, linewidth=1)
        accuracy.plot([line["step"] for line in epochs],
                      [100 * line.get("final_accuracy", line["accuracy"]) for line in epochs], marker="o",
                      markersize=3, color=curve.get_color())
        for key, style in (("bits_w", "-"), ("bits_a", "--"), ("bits_dy", ":")):
            bits.plot(x, [line[key] for line in steps], style, color=curve.get_color(), linewidth=1)
    loss.set_ylabel("training loss (smoothed)")
    loss.legend(fontsize=7, ncols=2)
    accuracy.set_ylabel("test accuracy, %")
    bits.set_ylabel("mean bits: W –, X - -, dY ···")
    bits.set_xlabel("step")
    for axis in (loss, accuracy, bits):
        axis.grid(alpha=0.3)
    figure.savefig(output, dpi=80)


def plot_pairs(folder, output):
    names = sorted(path.name.removesuffix("-integer") for path in folder.glob("*-integer"))
    if not names:
        sys.exit(f"plot_runs: no POLICY-integer in {folder}")
    columns = 4
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 2.1 * rows), sharex=True, constrained_layout=True)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names):
        for arithmetic, style in (("integer", "-"), ("simulated", "--")):
            steps = steps_of(folder / f"{name}-{arithmetic}")
            axis.plot([line["step"] for line in steps], [line["loss"] for line in steps], style, linewidth=1,
                      label=arithmetic)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=7)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("training loss", fontsize=9)
    figure.savefig(output, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["precision", "gate", "learning", "pairs"])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--out", type=pathlib.Path, help="PNG, SVG or PDF file; default: KIND.png")
    arguments = parser.parse_args()
    output = arguments.out or pathlib.Path(f"{arguments.kind}.png")
    if arguments.kind != "learning" and len(arguments.runs) != 1:
        parser.error(f"{arguments.kind} takes one directory, got {len(arguments.runs)}")
    if arguments.kind == "precision":
        plot_precision(arguments.runs[0], output)
    elif arguments.kind == "gate":
        plot_gate(arguments.runs[0], output)
    elif arguments.kind == "learning":
        plot_learning(arguments.runs, output)
    else:
        plot_pairs(arguments.runs[0], output)
    print(output)


if __name__ == "__main__":
    main()

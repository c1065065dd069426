"""Which pixels are worth measuring? Channels that a network can least do without, on scikit-learn's 8x8 digits.

    python examples/choose_channels.py --out choose_channels.png

The 64 pixels are channels, the ten labels columns of zeros and ones. `js.fit.choose_channels` closes pixels while two
networks learn the task. What a set of pixels is worth is judged by neither of them, but by a support vector machine
fitted to those pixels alone, on 360 images that took no part. Beside it: random pixels (mean of ten sets), evenly
spaced ones, and those of the largest coefficients of an L1-penalised regression of all ten labels (MultiTaskLasso of
scikit-learn), which does as well here. The paper's own rule, by the weights of the gates, keeps pixels of the rim that
are almost always 0, and falls below chance (--rank weight). Half a minute.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np
import small_digits as digits
from sklearn.linear_model import MultiTaskLasso
from sklearn.svm import SVC

import jsamp as js

SIZES = (40, 30, 24, 20, 16, 13, 10, 8, 6, 4)
SHOWN = (24, 10, 6)


def judge(data, kept):
    """Accuracy on fresh images of a machine that sees some pixels."""
    images, labels, fresh, truth = data
    return SVC(C=10).fit(images[:, kept], labels).score(fresh[:, kept], truth)


def by_l1(images, wanted, size):
    """The penalty at which about so many pixels are left, by bisection, and of these the largest."""
    low, high, length = 1e-4, 1.0, np.zeros(64)
    images, wanted = images - images.mean(0), wanted - wanted.mean(0)
    for _ in range(20):
        middle = (low * high) ** 0.5
        length = np.linalg.norm(MultiTaskLasso(alpha=middle, tol=1e-2).fit(images, wanted).coef_, axis=0)
        left = np.count_nonzero(length)
        if left == size:
            break
        low, high = (middle, high) if left > size else (low, middle)
    return np.argsort(-length)[:size]


def spaced(size):
    """Evenly spaced pixels in the order of the rows."""
    return np.linspace(0, 63, size).round().astype(int)


def rivals(data, wanted, sizes):
    """Accuracy of each way to choose, for each size, and the pixels of L1."""
    rng, found = np.random.default_rng(0), {"L1": [], "random": [], "evenly spaced": []}
    for size in sizes:
        found["L1"].append(judge(data, by_l1(data[0], wanted, size)))
        found["random"].append(np.mean([judge(data, rng.choice(64, size, replace=False)) for _ in range(10)]))
        found["evenly spaced"].append(judge(data, spaced(size)))
    return found


def draw_picture(path, sizes, found, masks, mean):
    """Accuracy against pixels, and the pixels that are left."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 4, figsize=(10, 3.4), width_ratios=[2, 1, 1, 1], layout="constrained")
    for name, curve in found.items():
        panels[0].plot(sizes, curve, marker=".", linewidth=2 if name == "choose_channels" else 1, label=name)
    panels[0].set(xscale="log", xlabel="pixels measured", ylabel="accuracy on 360 fresh images")
    panels[0].set_xticks([4, 8, 16, 40], ["4", "8", "16", "40"])
    panels[0].minorticks_off()
    panels[0].legend(fontsize=8)
    shown = [size for size in SHOWN if size in sizes] or sizes[-1:]
    for panel, size in zip(panels[1:], shown, strict=False):
        panel.imshow(mean.reshape(8, 8), cmap="gray_r", alpha=0.6)
        panel.scatter(*np.argwhere(masks[size].reshape(8, 8)).T[::-1], s=45, marker="s", color="tab:blue")
        panel.set(title=f"{size} pixels", xticks=[], yticks=[])
    figure.suptitle("Which pixels of the digits are worth measuring (grey: the mean image)")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Choose, judge, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--epochs", type=int, default=100, help="most epochs of a size")
    parser.add_argument("--rank", choices=("loss", "weight"), default="loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="choose_channels.png")
    args = parser.parse_args()
    sizes = tuple(args.sizes)
    data = [np.asarray(part) for part in digits.load()]
    wanted = np.eye(10, dtype=np.float32)[data[1]]
    epochs = max(1, min(25, args.epochs // 4))
    schedule = js.fit.ChannelSchedule(
        settle=epochs, blend=max(1, epochs // 5), fade=max(1, epochs // 5), patience=5, epochs=args.epochs
    )
    begun = time.perf_counter()
    info = js.fit.choose_channels(
        jax.random.key(args.seed), (data[0] + 1) / 2, wanted, sizes, schedule=schedule, rank=args.rank
    ).info
    print(f"choose_channels: {time.perf_counter() - begun:.0f} s; better than the mean at every size: {info.ok.all()}")
    masks = dict(zip(info.sizes.tolist(), info.masks, strict=True))
    found = {"choose_channels": [judge(data, np.flatnonzero(masks[size])) for size in sizes]}
    found |= rivals(data, wanted, sizes)
    print(f"accuracy of a machine that sees some pixels; all 64: {judge(data, np.arange(64)):.3f}")
    print("    pixels            " + " ".join(f"{size:5d}" for size in sizes))
    for name, curve in found.items():
        print(f"    {name:17s} " + " ".join(f"{one:5.3f}" for one in curve))
    draw_picture(args.out, sizes, found, masks, data[0].mean(0))
    print(args.out)


if __name__ == "__main__":
    main()

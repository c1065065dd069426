"""SMOTE on real handwritten digits: find the eights among all digits, having seen only a few of them.

Recall of eights doubles; the order of the images (average precision) hardly moves, which is what new rows between old
ones can do for a linear model. The borderline variants are here to show that a linear model on clean data has no use
for more rows near the border: they are no better than plain SMOTE.

python examples/smote_imbalanced.py --out .
"""

import argparse
import pathlib

import jax
import matplotlib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, recall_score
from sklearn.model_selection import StratifiedKFold

import jsamp as js

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=".", help="folder of the picture")
    args = parser.parse_args()
    X, digit = load_digits(return_X_y=True)
    X, y = (X / 16).astype(np.float32), (digit == 8).astype(int)
    kinds = {"none": None, "regular": "regular", "borderline1": "borderline1", "borderline2": "borderline2"}
    scores = {name: [] for name in kinds}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for fold, (train, test) in enumerate(folds.split(X, y)):
        # Keep 30 eights: 2 % of the training set. New rows are made inside the fold, never before the split.
        keep = np.concatenate([train[y[train] == 0], train[y[train] == 1][:30]])
        for name, kind in kinds.items():
            rows, labels = X[keep], y[keep]
            if kind is not None:
                rows, labels = js.select.oversample(jax.random.key(fold), rows, labels, kind=kind)
            model = LogisticRegression(max_iter=1000).fit(rows, labels)
            guess, chance = model.predict(X[test]), model.predict_proba(X[test])[:, 1]
            scores[name].append(
                (
                    recall_score(y[test], guess),
                    balanced_accuracy_score(y[test], guess),
                    average_precision_score(y[test], chance),
                )
            )
    names = ("recall of eights", "balanced accuracy", "average precision")
    for name, values in scores.items():
        print(f"{name:12s}", "  ".join(f"{n} {v:.3f}" for n, v in zip(names, np.mean(values, 0), strict=True)))

    eights = np.flatnonzero(digit == 8)[:30]
    new = js.select.smote(jax.random.key(0), X, eights, 10)
    figure, axes = plt.subplot_mosaic("AAB", figsize=(11, 3.6), constrained_layout=True)
    tiles = np.concatenate([X[new.parent], new.x, X[new.neighbor]]).reshape(30, 8, 8)
    js.plot.images(tiles, columns=10, low=0.0, labels=["parent", "new", "neighbour"], axes=axes["A"])
    axes["A"].set_title("New eights between two real ones")
    place = np.arange(3)
    for i, (name, values) in enumerate(scores.items()):
        error = np.std(values, 0, ddof=1) / np.sqrt(5)
        axes["B"].bar(place + 0.2 * (i - 1.5), np.mean(values, 0), 0.2, yerr=error, label=name)
    axes["B"].set_xticks(place, [n.replace(" ", "\n", 1) for n in names])
    axes["B"].set(ylim=(0.3, 1), title="Logistic regression, 5 folds ± s.e.")
    axes["B"].legend(fontsize=7)
    path = pathlib.Path(args.out) / "smote_imbalanced.png"
    figure.savefig(path, dpi=110)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()

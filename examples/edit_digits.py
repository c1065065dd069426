"""Edit digits by the start of their sampler, searched through a distilled jump (DITTO-2) or the sampler (DITTO).

    python examples/edit_digits.py --out edited.png

Keep the upper half of each digit, and ask for more ink in all. `js.solve.optimise_start` searches the noise that a
frozen 8x8 model turns into such a digit. Through the sampler of 20 evaluations every update costs 80; through a student
that jumps to the digit at once it costs 3. The start that is found is decoded by the student and by the sampler: the
second shows what the student's jump and the sampler's end have not in common. A minute on two cores.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time

import distil_digits as distilled
import jax
import jax.numpy as jnp
import numpy as np
import optax
import png
import small_digits as small

import jsamp as js

VE, TOP = distilled.VE, float(distilled.GRID[0])
PLAN = js.solve.dpmpp(VE, js.noise.karras_grid(VE, 20))
RATE, UPDATES = optax.adam(0.02 * TOP), 70


def wanted(kept, ink, x0):
    """Mean square change of the upper half, and of the mean ink from what is asked for."""
    return jnp.mean((x0[:32] - kept[:32]) ** 2) + 4 * (jnp.mean(x0) - ink) ** 2


@functools.partial(jax.jit, static_argnames="num")
def search(teacher, student, x, label, kept, ink, num):
    """Starts found for each row: through the student, or through the sampler where there is none."""

    def one(x, label, kept, ink):
        jump = None if student is None else jax.tree_util.Partial(to_digit, student, label)
        loss = functools.partial(wanted, kept, ink)
        denoiser = small.labelled(teacher, label)
        return js.solve.optimise_start(denoiser, x, PLAN, loss, RATE, steps=num, surrogate=jump, shell=0.1).x

    return jax.vmap(one)(x, label, kept, ink)


def to_digit(student, label, x):
    """The student's jump from the highest level."""
    return student(x, jnp.full(x.shape[:-1], TOP, x.dtype), label)


@jax.jit
def sampled(teacher, label, x):
    return js.sample(None, small.labelled(teacher, label), x, PLAN).x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="updates of the teacher")
    parser.add_argument("--distil", type=int, default=1200, help="updates of the student")
    parser.add_argument("--num", type=int, default=64, help="digits to edit")
    parser.add_argument("--updates", type=int, default=UPDATES, help="updates of each start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("edited.png"))
    options = parser.parse_args()
    x, y, _, _ = small.load()
    keys = jax.random.split(jax.random.key(options.seed), 3)
    teacher, _ = small.train_denoiser(keys[0], (x, y), options.steps)
    student = distilled.distil(keys[1], teacher, (x, y), options.distil, eta=0.0)
    label = jnp.arange(options.num) % small.CLASSES
    noise = TOP * jax.random.normal(keys[2], (options.num, 64))
    before = sampled(teacher, label, noise)
    ink = jnp.mean(before, -1) + 0.15
    errors = lambda found: jax.vmap(wanted)(before, ink, found)
    rows, num = {"before": before}, options.updates
    print(f"{'start found through':26s}{'evaluations':>12s}{'seconds':>9s}   upper half   ink short by")

    def row(name, evaluations, seconds, found):
        half = float(jnp.sqrt(jnp.mean((found - before)[:, :32] ** 2)))
        short = float(jnp.mean(jnp.abs(ink - jnp.mean(found, -1))))
        rows[name] = found
        print(f"{name:26s}{evaluations:12d}{seconds:9.1f}{half:13.3f}{short:15.3f}", flush=True)

    row("nothing", 0, 0.0, before)
    del rows["nothing"]
    for through, evaluations in ((student, 3 * num), (None, 4 * num * PLAN.nfe)):
        search(teacher, through, noise, label, before, ink, num=num).block_until_ready()
        start = time.perf_counter()
        found = search(teacher, through, noise, label, before, ink, num=num).block_until_ready()
        seconds = time.perf_counter() - start
        if through is not None:
            row("student, by the student", evaluations + 1, seconds, to_digit(student, label, found))
            row("student, by the sampler", evaluations + PLAN.nfe, seconds, sampled(teacher, label, found))
        else:
            row("sampler", evaluations + PLAN.nfe, seconds, sampled(teacher, label, found))
    pages = [np.kron(np.asarray(v[:12]).reshape(-1, 8, 8), np.ones((3, 3))) for v in rows.values()]
    png.page(options.out, pages, list(rows), "The upper half kept, more ink asked for")
    print(f"mean loss before {float(errors(before).mean()):.3f}; {options.out}")


if __name__ == "__main__":
    main()

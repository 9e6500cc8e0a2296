"""Makes word vectors of two languages whose alignment is known, for recipes/sinhala_english.

Words of one language are random directions around a common mean; those of the other are their images under a hidden
rotation, with noise, and a tenth as many hubs again: words near the mean that are everybody's neighbours. Two sets are
written, each with source.vec, target.vec (fastText's text format), train.txt and test.txt (MUSE's):

    python3 tools/data/hidden_rotation.py [FOLDER]     default: runs/data/hidden_rotation

    clean/    no noise: the rotation can be found exactly
    noisy/    with noise: translations are near, and hubs are nearer
"""

import argparse
import math
import os
import random
import shutil
from pathlib import Path


def unit(vector):
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def normal(random_numbers, width):
    return [random_numbers.gauss(0, 1) for _ in range(width)]


def random_rotation(random_numbers, width):
    """Orthogonal rows: Gram and Schmidt's of random ones."""
    rows = []
    while len(rows) < width:
        row = normal(random_numbers, width)
        for _ in range(2):  # The second time for what rounding left.
            for other in rows:
                along = sum(a * b for a, b in zip(row, other))
                row = [a - along * b for a, b in zip(row, other)]
        rows.append(unit(row))
    return rows


def times(vector, matrix):
    columns = range(len(matrix[0]))
    return [sum(x * row[j] for x, row in zip(vector, matrix)) for j in columns]


def plus(vector, scale, other):
    return [a + scale * b for a, b in zip(vector, other)]


def spaces(seed, words, width, noise, hubs):
    """Source vectors, their translations, and hubs beside the translations."""
    random_numbers = random.Random(seed)
    mean = normal(random_numbers, width)
    rotation = random_rotation(random_numbers, width)
    sources = [unit(plus(mean, 1, normal(random_numbers, width))) for _ in range(words)]
    translations = [unit(plus(times(source, rotation), noise, normal(random_numbers, width))) for source in sources]
    centre = times(mean, rotation)
    around = [unit(plus(centre, 0.3, normal(random_numbers, width))) for _ in range(round(hubs * words))]
    return sources, translations, around


def vector_lines(named):
    named = list(named)
    yield f"{len(named)} {len(named[0][1])}\n"
    for word, vector in named:
        yield word + " " + " ".join(f"{x:.6f}" for x in vector) + "\n"


def write_set(folder, seed, noise, words=2000, width=30, hubs=0.1):
    """Half of the words are for fitting, half for testing; target words stand in an order of their own."""
    sources, translations, around = spaces(seed, words, width, noise, hubs)
    targets = [(f"t{i}", v) for i, v in enumerate(translations)] + [(f"hub{i}", v) for i, v in enumerate(around)]
    random.Random(seed + 1).shuffle(targets)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with open(partial / "source.vec", "w") as file:
        file.writelines(vector_lines((f"s{i}", v) for i, v in enumerate(sources)))
    with open(partial / "target.vec", "w") as file:
        file.writelines(vector_lines(targets))
    for name, chosen in (("train", range(words // 2)), ("test", range(words // 2, words))):
        with open(partial / f"{name}.txt", "w") as file:
            file.writelines(f"s{i} t{i}\n" for i in chosen)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/data/hidden_rotation"))
    parser.add_argument("--noise", type=float, default=0.15, help="of the noisy set, beside vectors of length 1")
    parser.add_argument("--seed", type=int, default=8)
    arguments = parser.parse_args()
    write_set(arguments.folder / "clean", arguments.seed, 0.0)
    write_set(arguments.folder / "noisy", arguments.seed, arguments.noise)
    print(f"hidden_rotation.py: {arguments.folder}")


if __name__ == "__main__":
    main()

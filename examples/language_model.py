"""A neural language model: three words in, the next word out, and a map of the learned word vectors.

    python examples/language_model.py train --save words.safetensors
    python examples/language_model.py predict "city of new" "life in the" "he is the" --load words.safetensors
    python examples/language_model.py eval --load words.safetensors
    python examples/language_model.py tsne --load words.safetensors --out figures
    python examples/language_model.py train --corpus book.txt --vocab-size 1000 --save book.safetensors

Each of the three words is looked up in one table with 16 numbers per word. The three rows, concatenated
(``--combine concat``, 48 numbers) or added (``--combine sum``, 16 numbers), pass through 128 sigmoid units to one
output for each word of the vocabulary (Bengio et al. 2003). A sum ignores the order of the words.

published: stochastic gradient descent on the *summed* loss of 100 rows, rate 0.02, 20 epochs, weights from N(0, 0.5^2),
for both forms. The concatenated form was also published with rate 0.001 and 200 epochs: ``--recipe published --lr 0.001
--epochs 200``.

default: Adam with a one-cycle rate on the mean loss of up to 1,024 rows, and a small L2 penalty; the validation part is
evaluated after each epoch, and the best epoch is kept.

Data: the published 4-grams (``train_inputs.npy`` ...) or the ``raw_sentences.txt`` from which they are made, in the
folder --data-dir or ``$MLP_XP_DATA/ngram250``: course material (University of Toronto, CSC321), not available for
download. Or any text in UTF-8 (--corpus); its most frequent words are the vocabulary. Without any of these, the script
reads the reference prose included in Python, and the first line of the output says so.

Time: about 20 seconds on two cores with the published 4-grams; 30 seconds for the published recipe, 6 minutes with 200
epochs; one second with Python's prose.

Source: the sum was published at 29.40 % test accuracy in a course report (CMPE 597, Bogazici University, 2023), the
concatenation at 23.12 % with rate 0.001 and 200 epochs in a course homework (2021).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mlp_xp
from example_data import DataError, Dataset, Vocabulary, load_ngrams, tokenize
from example_tools import plots, word_plots
from example_tools.options import (
    add_recipe_option,
    add_run_options,
    new_parser,
    paragraphs,
    positive_float,
    positive_int,
    seed,
)
from example_tools.run import Run, measured, percent, run_example
from mlp_xp import (
    SGD,
    Adam,
    Chain,
    Dense,
    EarlyStopping,
    Embedding,
    Glorot,
    Model,
    Normal,
    Progress,
    Sigmoid,
    SoftmaxCrossEntropy,
    Trainer,
)
from mlp_xp.nn.schedules import OneCycle

DIM, HIDDEN, CONTEXT = 16, 128, 3
PHRASES = ("city of new", "life in the", "he is the")
Array = np.ndarray[Any, Any]


class Recipe(NamedTuple):
    """The settings of a training; the optimizers are in `new_trainer`."""

    epochs: int
    lr: float
    batch_size: int


PUBLISHED = Recipe(epochs=20, lr=0.02, batch_size=100)


def default_recipe(rows: int) -> Recipe:
    """About 360 steps per epoch; Adam's rate grows with the square root of the batch size (Malladi et al. 2022)."""
    batch_size = min(max(rows // 360, 32), 1024)
    return Recipe(epochs=12, lr=0.03 * (batch_size / 1024) ** 0.5, batch_size=batch_size)


def parser() -> argparse.ArgumentParser:
    """The options of the four commands."""
    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | eval | predict | tsne")
    recipes, data = paragraphs(__doc__, "published:", "default:"), paragraphs(__doc__, "Data:", "Time:", "Source:")
    train = commands.add_parser("train", help="train a model", description=recipes, epilog=data)
    add = train.add_argument
    add("--combine", choices=("concat", "sum"), default="concat", help="concatenate or add the word vectors")
    add_recipe_option(train)
    add("--lr", type=positive_float, metavar="X", help="highest learning rate (default: the recipe's)")
    add("--batch-size", type=positive_int, metavar="N", help="rows per step (default: the recipe's)")
    add("--corpus", type=Path, metavar="FILE", help="a text to train on")
    add("--vocab-size", type=positive_int, default=250, metavar="N", help="number of its most frequent words")
    add("--save", type=Path, metavar="FILE", help="write the trained model (safetensors)")
    add_run_options(train)

    evaluate = commands.add_parser("eval", help="evaluate a saved model on the validation and test parts")
    add_saved_model_options(evaluate)
    evaluate.add_argument("--corpus", type=Path, metavar="FILE", help="the text on which it was trained")
    evaluate.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the 4-grams")

    predict = commands.add_parser("predict", help="print the most probable next words")
    predict.add_argument(
        "phrases", nargs="+", metavar="PHRASE", help="at least three words in quotes; the last three count"
    )
    add_saved_model_options(predict)

    tsne = commands.add_parser("tsne", help="draw a map of all words and some neighborhoods, and print nearest words")
    tsne.add_argument("words", nargs="*", metavar="WORD", help="print its nearest words (default: those of the map)")
    add_saved_model_options(tsne)
    tsne.add_argument("--seed", type=seed, default=0, help="seed of the map")
    return parser


def add_saved_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that load a model."""
    add = parser.add_argument
    add("--load", type=Path, required=True, metavar="FILE", help="the model that `train --save FILE` wrote")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, torch:cpu, jax ...")
    add("--strict-device", action="store_true", help="fail if the device is missing (else use the CPU)")
    add("--out", type=Path, metavar="DIR", help="draw figures into this folder")
    add("--json", type=Path, metavar="FILE", help="write settings, results and times as JSON")


def main(run: Run) -> None:
    """Run the command that the options name."""
    {"train": train, "eval": evaluate, "predict": predict, "tsne": tsne}[run.options.command](run)


def train(run: Run) -> None:
    """Train on 4-grams, evaluate on 4-grams of other sentences, and save the model."""
    options = run.options
    with run.timed("load"):
        data = load_ngrams(np.random.default_rng(options.seed), options.data_dir, options.corpus, options.vocab_size)
    print(data.source)
    recipe = PUBLISHED if options.recipe == "published" else default_recipe(len(data.train.x))
    for name, value in recipe._asdict().items():
        setattr(options, name, getattr(options, name) or value)

    trainer = new_trainer(run, len(data.classes))
    assert data.valid is not None
    sample = len(data.valid.x)  # training rows whose accuracy is measured after each epoch
    with run.timed("train"):
        trainer.fit(
            *data.train,
            max_epochs=options.epochs,
            batch_size=options.batch_size,
            validation_data={"train": (data.train.x[:sample], data.train.y[:sample]), "valid": data.valid},
            early_stopping=None if options.recipe == "published" else EarlyStopping(patience=options.epochs),
            callbacks=[Progress()],
        )
    run.epochs = list(trainer.history)
    extra = {key: getattr(options, key) for key in ("recipe", "combine", "seed")}
    model = replace(trainer.model, extra={"vocabulary": list(data.classes), **extra})
    if options.save:
        model.save(options.save)
        print(f"saved {options.save}")
    measure(run, model, data, ("train", "valid", "test"))
    if options.recipe == "published":
        print(
            "published: 29.40 % test accuracy (CMPE 597, 2023); 23.12 % at rate 0.001 after 200 epochs (homework, 2021)"
        )
    print_next_words(run, model, some_phrases(data))
    title = f"next word, {options.combine}, {options.recipe} recipe"
    run.draw("language_model-curves.png", plots.curves, run.epochs, title)


def new_trainer(run: Run, words: int) -> Trainer:
    """The network and its optimizer."""
    options = run.options
    published = options.recipe == "published"
    init = Normal(std=0.5) if published else Glorot()
    inputs = DIM * CONTEXT if options.combine == "concat" else DIM
    network = Chain(
        Embedding(words, DIM, ids_per_row=CONTEXT, combine=options.combine, init_E=Normal(std=0.5)),
        Dense(inputs, HIDDEN, init_W=init),
        Sigmoid(),
        Dense(HIDDEN, words, init_W=init),
    )
    return Trainer(
        network,
        SoftmaxCrossEntropy(reduction="sum" if published else "mean"),
        SGD(options.lr) if published else Adam(OneCycle(options.lr), b2=0.98),
        device=run.backend,
        dtype=options.dtype,
        seed=options.seed,
        l2=0.0 if published else 3e-6,
    )


def measure(run: Run, model: Model, data: Dataset, parts: Sequence[str]) -> None:
    """Print and report accuracy and mean cross-entropy on parts of the data."""
    for part in parts:
        run.result |= measured(part, model.evaluate(*getattr(data, part)))
        accuracy, loss = (run.result[f"{part}_{name}"] for name in ("accuracy", "loss"))
        print(f"{part:5} accuracy {percent(accuracy)}, cross-entropy {loss:.4f} nats")
    run.result |= {"recipe": model.extra["recipe"], "combine": model.extra["combine"], "words": len(data.classes)}


def some_phrases(data: Dataset) -> Sequence[str]:
    """The published phrases if the vocabulary has their words, otherwise three from the test part."""
    if set(" ".join(PHRASES).split()) <= set(data.classes):
        return PHRASES
    return [" ".join(data.classes[i] for i in row) for row in data.test.x[:3]]


def print_next_words(run: Run, model: Model, phrases: Sequence[str], most: int = 5) -> None:
    """Print and report the most probable next words after each phrase, with their probabilities."""
    vocabulary = vocabulary_of(model)
    p = model.predict_proba(np.stack([context(vocabulary, phrase) for phrase in phrases]))
    run.result["next_words"] = {}
    for phrase, row in zip(phrases, p, strict=True):
        best = np.argsort(-row, kind="stable")[:most]
        found = dict(zip(vocabulary.decode(best), row[best].tolist(), strict=True))
        run.result["next_words"][phrase] = found
        print(f"{phrase} -> " + ", ".join(f"{word} {percent(share)}" for word, share in found.items()))


def context(vocabulary: Vocabulary, phrase: str) -> Array:
    """Return the ids of the last three words of ``phrase``, (3,)."""
    tokens = tokenize(phrase)[-CONTEXT:]
    if len(tokens) < CONTEXT:
        raise ValueError(f"{phrase!r} is too short: expected at least three words, such as 'city of new'")
    return vocabulary.encode(tokens)


def vocabulary_of(model: Model) -> Vocabulary:
    """The vocabulary that was saved with the model."""
    if "vocabulary" not in model.extra:
        raise ValueError("the model has no vocabulary: expected a model saved by language_model.py train")
    return Vocabulary(tuple(model.extra["vocabulary"]))


def load_model(run: Run) -> Model:
    """The model of --load."""
    if not run.options.load.exists():
        raise FileNotFoundError(
            f"no model {run.options.load}: train one with python examples/language_model.py train "
            f"--save {run.options.load}"
        )
    return mlp_xp.load(run.options.load, device=run.backend)


def evaluate(run: Run) -> None:
    """Evaluate a saved model on the parts on which it was not trained: its own seed draws the split."""
    options, model = run.options, load_model(run)
    vocabulary = vocabulary_of(model)
    with run.timed("load"):
        rng = np.random.default_rng(model.extra["seed"])
        data = load_ngrams(rng, options.data_dir, options.corpus, len(vocabulary))
    if data.classes != vocabulary.words:
        raise DataError(f"{options.load} was not trained on {data.source}: name its text with --corpus or --data-dir")
    measure(run, model, data, ("valid", "test"))


def predict(run: Run) -> None:
    """Print the next words after the phrases of the options."""
    print_next_words(run, load_model(run), run.options.phrases)


def tsne(run: Run) -> None:
    """Draw the map of all words and some neighborhoods, and print nearest words by cosine."""
    options, model = run.options, load_model(run)
    vocabulary = vocabulary_of(model)
    words, chosen = vocabulary.words, list(vocabulary.encode(options.words))
    E = model.backend.to_numpy(model.params[0].E).astype(np.float64)  # (words, 16)
    unit = E / np.linalg.norm(E, axis=1, keepdims=True)
    cosine = unit @ unit.T  # (words, words)
    if options.out or not chosen:
        places = word_places(E, options.seed)
        middles = [i for i, word in enumerate(words) if word.isalpha()] or range(len(words))
        groups = neighbourhoods(places, cosine, middles)
        chosen = chosen or [group[0] for group in groups]
        title = f"Map of {len(words)} word vectors (t-SNE)"
        run.draw("language_model-map.png", word_plots.word_map, places, words, title)
        title = "Neighborhoods in the map of word vectors (words farther away in gray)"
        run.draw("language_model-neighbourhoods.png", word_plots.neighbourhoods, places, words, groups, title)
    print_nearest(run, words, cosine, chosen)


def word_places(E: Array, seed: int) -> Array:
    """Return a point (words, 2) for each row of ``E`` (words, 16), such that similar rows are near each other."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(E) - 1) / 3)
    places: Array = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=seed).fit_transform(E)
    return places


def print_nearest(run: Run, words: Sequence[str], cosine: Array, chosen: Sequence[int] | Array, most: int = 6) -> None:
    """Report the nearest words of every word by cosine; print those of the words with the numbers ``chosen``."""
    others = np.where(np.eye(len(words), dtype=bool), -np.inf, cosine)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(most, len(words) - 1)]
    run.result["nearest"] = {word: [words[j] for j in row] for word, row in zip(words, nearest, strict=True)}
    for i in chosen:
        print(f"{words[i]}: " + ", ".join(f"{words[j]} {cosine[i, j]:.2f}" for j in nearest[i]))


def neighbourhoods(places: Array, cosine: Array, middles: Sequence[int], n: int = 6, size: int = 9) -> list[Array]:
    """Return up to ``n`` disjoint groups of ``size`` words: one of ``middles``, then its nearest words on the map.

    The groups with the highest mean cosine to their central word are chosen. ``places`` is (words, 2), ``cosine``
    (words, words).
    """
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    near = np.argsort(distance, axis=1, kind="stable")[:, :size]
    alike = np.take_along_axis(cosine, near, axis=1).mean(axis=1)
    groups: list[Array] = []
    for word in sorted(middles, key=lambda word: -alike[word]):
        if len(groups) < n and not any(np.isin(near[word], group).any() for group in groups):
            groups.append(near[word])
    return groups


if __name__ == "__main__":
    sys.exit(run_example(main, parser()))

"""A neural language model: three words in, the next word out, and a map of what the words came to mean.

    python examples/language_model.py train
    python examples/language_model.py predict "city of new" "life in the" "he is the"
    python examples/language_model.py eval
    python examples/language_model.py tsne --out pictures
    python examples/language_model.py train --corpus book.txt --vocab-size 1000 --save book.safetensors

Each of the three words is looked up in one table of 16 numbers a word. The three rows, side by side
(``--combine concat``, 48 numbers) or added up (``--combine sum``, 16 numbers), go through 128 sigmoid units to one
output for each word of the vocabulary (Bengio et al. 2003). A sum does not know the order of the words.

published: stochastic gradient descent on the *summed* loss of 100 rows, rate 0.02, 20 epochs, weights from N(0, 0.5^2),
for both forms. It was published at 29.40 % test accuracy. The concatenated form was also published with rate 0.001 and
200 epochs, at 23.12 %: ``--recipe published --lr 0.001 --epochs 200``.

default: Adam with a one-cycle rate on the mean loss of up to 1,024 rows, and a touch of L2; after each epoch the
validation part is measured, and the best epoch is kept.

Data: the published 4-grams (``train_inputs.npy`` ...) or the ``raw_sentences.txt`` that they come from, in the folder
--data-dir or ``$MLP_XP_DATA/ngram250``: course material (University of Toronto, CSC321), not offered for download. Or
any text in UTF-8 (--corpus), of which the most frequent words are the vocabulary. Where there is none of these, the
reference prose that Python carries.
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
import plots
import word_plots
from common import (
    Run,
    add_recipe_option,
    add_run_options,
    measured,
    new_parser,
    paragraphs,
    percent,
    positive_float,
    positive_int,
    say,
    seed,
    tell,
)
from example_data import DataError, Dataset, Vocabulary, load_ngrams, tokenize
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
MODEL = Path("word_model.safetensors")
PHRASES = ("city of new", "life in the", "he is the")
Array = np.ndarray[Any, Any]


class Recipe(NamedTuple):
    """The numbers of a training; the optimizers are in `new_trainer`."""

    epochs: int
    lr: float
    batch_size: int


PUBLISHED = Recipe(epochs=20, lr=0.02, batch_size=100)


def default_recipe(rows: int) -> Recipe:
    """Some 360 steps an epoch; Adam's rate grows with the square root of the batch (Malladi et al. 2022)."""
    batch_size = min(max(rows // 360, 32), 1024)
    return Recipe(epochs=12, lr=0.03 * (batch_size / 1024) ** 0.5, batch_size=batch_size)


def parser() -> argparse.ArgumentParser:
    """The options of the four commands."""
    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | eval | predict | tsne")
    recipes, data = paragraphs(__doc__, "published:", "default:"), paragraphs(__doc__, "Data:")
    train = commands.add_parser("train", help="train a model and save it", description=recipes, epilog=data)
    add = train.add_argument
    add("--combine", choices=("concat", "sum"), default="concat", help="the three words side by side, or added up")
    add_recipe_option(train)
    add("--lr", type=positive_float, metavar="X", help="highest rate (else the recipe's)")
    add("--batch-size", type=positive_int, metavar="N", help="rows of a step (else the recipe's)")
    add("--corpus", type=Path, metavar="FILE", help="a text to learn from")
    add("--vocab-size", type=positive_int, default=250, metavar="N", help="how many of its words, the most frequent")
    add("--save", type=Path, default=MODEL, metavar="FILE", help="where the trained model goes")
    add_run_options(train)

    evaluate = commands.add_parser("eval", help="accuracy and cross-entropy of a saved model on the test part")
    add_saved_model_options(evaluate)
    evaluate.add_argument("--corpus", type=Path, metavar="FILE", help="the text that it learned from")
    evaluate.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the 4-grams")

    predict = commands.add_parser("predict", help="the likeliest next words")
    predict.add_argument("phrases", nargs="+", metavar="PHRASE", help="three words in quotes; of more, the last three")
    add_saved_model_options(predict)

    tsne = commands.add_parser("tsne", help="the map of all words, some neighbourhoods of it, and nearest words")
    tsne.add_argument("words", nargs="*", metavar="WORD", help="whose nearest words are told (else the map's choice)")
    add_saved_model_options(tsne)
    tsne.add_argument("--seed", type=seed, default=0, help="of the map")
    tsne.set_defaults(out=Path("pictures"))
    return parser


def add_saved_model_options(parser: argparse.ArgumentParser) -> None:
    """What the commands share that train nothing."""
    add = parser.add_argument
    add("--load", type=Path, default=MODEL, metavar="FILE", help="the model that `train` saved")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, torch:cpu, jax ...")
    add("--strict-device", action="store_true", help="fail where the device is missing: no CPU instead")
    add("--out", type=Path, metavar="DIR", help="draw figures into this folder")
    add("--json", type=Path, metavar="FILE", help="write settings, results and times")


def story(run: Run) -> None:
    """The command of the options."""
    {"train": train, "eval": evaluate, "predict": predict, "tsne": tsne}[run.options.command](run)


def train(run: Run) -> None:
    """Learn from 4-grams, measure on those of other sentences, save."""
    options = run.options
    with run.timed("load"):
        data = load_ngrams(np.random.default_rng(options.seed), options.data_dir, options.corpus, options.vocab_size)
    say(data.source)
    recipe = PUBLISHED if options.recipe == "published" else default_recipe(len(data.train.x))
    for name, value in recipe._asdict().items():
        setattr(options, name, getattr(options, name) or value)

    trainer = new_trainer(run, len(data.classes))
    assert data.valid is not None
    sample = len(data.valid.x)  # rows of the training part on which accuracy is measured after each epoch
    with run.timed("train"):
        run.epochs = trainer.fit(
            *data.train,
            max_epochs=options.epochs,
            batch_size=options.batch_size,
            validation_data={"train": (data.train.x[:sample], data.train.y[:sample]), "valid": data.valid},
            early_stopping=None if options.recipe == "published" else EarlyStopping(patience=options.epochs),
            callbacks=[Progress()],
        )
    extra = {key: getattr(options, key) for key in ("recipe", "combine", "seed")}
    model = replace(trainer.model, extra={"vocabulary": list(data.classes), **extra})
    model.save(options.save)
    say(f"saved {options.save}")
    measure(run, model, data, ("train", "valid", "test"))
    tell_next_words(run, model, some_phrases(data))
    run.draw(
        "language_model-curves.png", plots.curves, run.epochs, f"next word, {options.combine}, {options.recipe} recipe"
    )


def new_trainer(run: Run, words: int) -> Trainer:
    """The network and what trains it."""
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
    """Accuracy and mean cross-entropy on parts of the data, told and reported."""
    for part in parts:
        run.result |= measured(part, model.evaluate(*getattr(data, part)))
        accuracy, loss = (run.result[f"{part}_{name}"] for name in ("accuracy", "loss"))
        say(f"{part:5} accuracy {percent(accuracy)}, cross-entropy {loss:.4f} nats")
    run.result |= {"recipe": model.extra["recipe"], "combine": model.extra["combine"], "words": len(data.classes)}


def some_phrases(data: Dataset) -> Sequence[str]:
    """The published phrases if the vocabulary has their words, else some of the test part."""
    if set(" ".join(PHRASES).split()) <= set(data.classes):
        return PHRASES
    return [" ".join(data.classes[i] for i in row) for row in data.test.x[:3]]


def tell_next_words(run: Run, model: Model, phrases: Sequence[str], most: int = 5) -> None:
    """The likeliest next words after each phrase, with their probabilities."""
    vocabulary = vocabulary_of(model)
    p = model.predict_proba(np.stack([context(vocabulary, phrase) for phrase in phrases]))
    run.result["next_words"] = {}
    for phrase, row in zip(phrases, p, strict=True):
        best = np.argsort(-row, kind="stable")[:most]
        found = dict(zip(vocabulary.decode(best), row[best].tolist(), strict=True))
        run.result["next_words"][phrase] = found
        say(f"{phrase} -> " + ", ".join(f"{word} {percent(share)}" for word, share in found.items()))


def context(vocabulary: Vocabulary, phrase: str) -> Array:
    """The ids of the last three words of ``phrase``, (3,)."""
    tokens = tokenize(phrase)[-CONTEXT:]
    if len(tokens) < CONTEXT:
        raise ValueError(f"{phrase!r} is too short: the model goes by three words, such as 'city of new'")
    return vocabulary.encode(tokens)


def vocabulary_of(model: Model) -> Vocabulary:
    """The words that the model knows."""
    if "vocabulary" not in model.extra:
        raise ValueError("the model carries no vocabulary: it was not saved by language_model.py train")
    return Vocabulary(tuple(model.extra["vocabulary"]))


def load_model(run: Run) -> Model:
    """The model of --load."""
    if not run.options.load.exists():
        raise FileNotFoundError(
            f"there is no model {run.options.load}: train one with python examples/language_model.py train "
            f"--save {run.options.load}"
        )
    return mlp_xp.load(run.options.load, run.backend)


def evaluate(run: Run) -> None:
    """Measure a saved model on sentences that it was not trained on: the split is drawn from its own seed."""
    options, model = run.options, load_model(run)
    vocabulary = vocabulary_of(model)
    with run.timed("load"):
        rng = np.random.default_rng(model.extra["seed"])
        data = load_ngrams(rng, options.data_dir, options.corpus, len(vocabulary))
    if data.classes != vocabulary.words:
        raise DataError(
            f"{options.load} learned from another text than {data.source}: "
            "name the one that it learned from with --corpus or --data-dir"
        )
    measure(run, model, data, ("valid", "test"))


def predict(run: Run) -> None:
    """The next words after the phrases of the options."""
    tell_next_words(run, load_model(run), run.options.phrases)


def tsne(run: Run) -> None:
    """Draw the map of all words, look at some neighbourhoods, and tell nearest words by cosine."""
    from sklearn.manifold import TSNE

    model = load_model(run)
    vocabulary = vocabulary_of(model)
    words = vocabulary.words
    E = model.backend.to_numpy(model.params[0].E).astype(np.float64)  # (words, 16)
    perplexity = min(30.0, (len(words) - 1) / 3)
    places = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=run.options.seed).fit_transform(E)
    unit = E / np.linalg.norm(E, axis=1, keepdims=True)
    cosine = unit @ unit.T  # (words, words)
    groups = neighbourhoods(places, cosine, [i for i, word in enumerate(words) if word.isalpha()] or range(len(words)))
    chosen = vocabulary.encode(run.options.words) if run.options.words else [group[0] for group in groups]
    tell_nearest(run, words, cosine, chosen)
    run.draw("language_model-map.png", word_plots.word_map, places, words, f"t-SNE map of {len(words)} word embeddings")
    title = "neighbourhoods of the map whose words point the same way"
    run.draw("language_model-neighbourhoods.png", word_plots.neighbourhoods, places, words, groups, title)


def tell_nearest(run: Run, words: Sequence[str], cosine: Array, chosen: Sequence[int] | Array, most: int = 6) -> None:
    """The words nearest to each by cosine: told for those of numbers ``chosen``, reported for all."""
    others = np.where(np.eye(len(words), dtype=bool), -np.inf, cosine)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(most, len(words) - 1)]
    run.result["nearest"] = {word: [words[j] for j in row] for word, row in zip(words, nearest, strict=True)}
    for i in chosen:
        say(f"{words[i]}: " + ", ".join(f"{words[j]} {cosine[i, j]:.2f}" for j in nearest[i]))


def neighbourhoods(places: Array, cosine: Array, middles: Sequence[int], n: int = 6, size: int = 9) -> list[Array]:
    """Up to ``n`` of ``middles`` with their nearest on the map, ``size`` words in all: the most alike, no word twice.

    ``places`` (words, 2), ``cosine`` (words, words); alike by the mean cosine with the middle.
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
    sys.exit(tell(story, parser()))

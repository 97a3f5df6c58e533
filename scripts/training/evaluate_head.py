"""Measures one of the heads beside spam, chooses its temperature on the validation split, and writes
the folder that ships: head, link to the common encoder, manifest, model card, confusion matrix."""

import argparse
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import card_head
import long_text
import sentiment
import splits
import topics

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

TOKENS_MAX = 256
BATCH = 32
BINS = 15
ENCODER = "model-00001-of-00002.safetensors"
# From fewer texts a temperature is not fitted: it would be that of these texts.
TEXTS_FOR_TEMPERATURE = 1000
# The last one is certain by the temperature of the one before.
WAYS = (("truncate", "mean"), ("head_tail", "mean"), ("window", "max"), ("window", "mean"), ("skim", "mean"))


def data(task, arguments):
    """Splits of texts with `label`, and the labels' names."""
    if task == "sentiment":
        return sentiment.splits_of(sentiment.sentences(arguments.ratings)), sentiment.SENTIMENTS
    parts, _ = splits.load(arguments.mails)
    parts = topics.splits_of(parts)
    return {name: [{**mail, "label": mail["topic"], "source": mail["group"]} for mail in part]
            for name, part in parts.items()}, topics.TOPICS


def logits_of(model, tokenizer, texts, long):
    """Logits of each text's windows, and counts of its tokens."""
    ids = long_text.token_ids(tokenizer, [text["text"] for text in texts])
    subjects = long_text.token_ids(tokenizer, [text["subject"] for text in texts])
    rows = [(at, row) for at, (own, subject) in enumerate(zip(ids, subjects))
            for row in long_text.windows(own, subject, long, TOKENS_MAX)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    found = np.zeros((len(rows), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for i in range(0, len(order), BATCH):
            group = order[i : i + BATCH]
            found[group] = model(**long_text.padded(tokenizer, [rows[j][1] for j in group])).logits.numpy()
    owners = np.array([at for at, _ in rows])
    lengths = np.bincount(owners, [len(row) + 2 for _, row in rows])
    unknown = np.bincount(owners, [row.count(tokenizer.unk_token_id) for _, row in rows])
    return [found[owners == at] for at in range(len(texts))], lengths, unknown


def aggregate(windows, aggregation):
    """One row of logits a text: the mean, or the window that is surest."""
    if aggregation == "mean":
        return np.stack([rows.mean(0) for rows in windows])
    return np.stack([rows[probabilities(rows, 1.0).max(1).argmax()] for rows in windows])


def skimmed(windows, temperature):
    """Those rows of each text's that the server computes with `long = "skim"`."""
    return long_text.skimmed(windows, lambda row: probabilities(row[None], temperature).max())


def probabilities(logits, temperature):
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def log_loss(logits, labels, temperature):
    given = probabilities(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(given, 1e-12, 1)).mean())


def calibration_error(logits, labels, temperature):
    """Expected calibration error of the stated label (Guo et al. 2017), in 15 bins."""
    scores = probabilities(logits, temperature)
    certainty, right = scores.max(1), scores.argmax(1) == labels
    bins = np.minimum((certainty * BINS).astype(int), BINS - 1)
    return float(sum(abs(right[bins == b].mean() - certainty[bins == b].mean()) * (bins == b).mean()
                     for b in range(BINS) if (bins == b).any()))


def measured(logits, labels, names):
    """Accuracy, macro F1, and precision, recall and F1 by label."""
    guess, by_label = logits.argmax(1), {}
    for at, name in enumerate(names):
        hits = int(((guess == at) & (labels == at)).sum())
        said, there = int((guess == at).sum()), int((labels == at).sum())
        precision, recall = hits / said if said else 0.0, hits / there if there else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        by_label[name] = {"texts": there, "precision": precision, "recall": recall, "f1": f1}
    return {"texts": len(labels), "accuracy": float((guess == labels).mean()),
            "macro_f1": float(np.mean([own["f1"] for own in by_label.values()])), "by_label": by_label}


def draw_confusion(logits, labels, names, path):
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (labels, logits.argmax(1)), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.62 * len(names), 1.2 + 0.5 * len(names)), dpi=90)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8,
                      color="white" if shares[row, column] > 0.5 else "black")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="model", ylabel="truth", title="Test split")
    figure.tight_layout()
    figure.savefig(path)


def write_folder(trained, encoder_folder, out):
    """The head's own files; the encoder and the tokenizer are links to those of `encoder_folder`."""
    out.mkdir(parents=True, exist_ok=True)
    for path in trained.iterdir():
        target = out / path.name
        target.unlink(missing_ok=True)
        if path.name in (ENCODER, "tokenizer.json"):
            if path.read_bytes() != (encoder_folder / path.name).read_bytes():
                raise SystemExit(f"{path} is not that of {encoder_folder}")
            target.symlink_to(Path("..") / encoder_folder.name / path.name)
        else:
            shutil.copyfile(path, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("topic", "sentiment"))
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--ratings", required=True, help="folder of the rated sentences")
    parser.add_argument("--models", required=True, help="folder that heads.py wrote")
    parser.add_argument("--bundled", required=True, help="folder whose `spam` has the encoder")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task, models, bundled = arguments.task, Path(arguments.models), Path(arguments.bundled)
    parts, names = data(task, arguments)
    out = bundled / task
    write_folder(models / task, bundled / "spam", out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()

    labels = {split: np.array([text["label"] for text in part]) for split, part in parts.items()}
    tried = []
    for long, aggregation in WAYS:
        windows, _, _ = logits_of(model, tokenizer, parts["validation"], long)
        if long == "skim":
            windows = skimmed(windows, tried[-1]["temperature"])
        logits = aggregate(windows, aggregation)
        grid = np.exp(np.linspace(math.log(0.3), math.log(5), 200))
        temperature = float(min(grid, key=lambda t: log_loss(logits, labels["validation"], t)))
        if len(labels["validation"]) < TEXTS_FOR_TEMPERATURE:
            temperature = 1.0
        tried.append({"long": long, "aggregation": aggregation, "temperature": round(temperature, 3),
                      "log_loss": log_loss(logits, labels["validation"], temperature),
                      **measured(logits, labels["validation"], names)})
    # Skimmed, and the mean of the windows, as spam reads: so that one forward pass is good for all heads.
    way = tried[-1]
    found = {}
    for split in ("validation", "test"):
        windows, tokens, unknown = logits_of(model, tokenizer, parts[split], way["long"])
        whole = np.array([len(rows) for rows in windows])
        windows = skimmed(windows, way["temperature"])
        # About: a window is as long as its neighbours.
        shares = np.array([len(rows) for rows in windows]) / whole
        tokens, unknown = tokens * shares, unknown * shares
        found[split] = (aggregate(windows, way["aggregation"]), tokens, unknown)
    logits, tokens, unknown = found["validation"]
    scores = probabilities(logits, way["temperature"])
    firsts = Counter(names[at] for at in scores.argmax(1))
    reference = {
        "labels": {name: round(firsts[name] / len(scores), 4) for name in names},
        "confidence": round(float(scores.max(1).mean()), 4),
        "unknown_tokens": round(float(unknown.sum() / tokens.sum()), 5),
        "tokens": round(float(tokens.mean()), 1),
    }
    test, truth = found["test"][0], labels["test"]
    facts = json.loads((models / "training.json").read_text()) | {
        "task": task, "names": names, "way": way, "tried": tried, "reference": reference,
        "counts": {split: dict(Counter(names[text["label"]] for text in part)) for split, part in parts.items()},
        "test": measured(test, truth, names),
        "by_source": {
            source: measured(test[at], truth[at], names)
            for source in sorted({text["source"] for text in parts["test"]})
            for at in [np.array([text["source"] == source for text in parts["test"]])]
        },
        "calibration": {split: {
            "before": calibration_error(found[split][0], labels[split], 1.0),
            "after": calibration_error(found[split][0], labels[split], way["temperature"]),
        } for split in found},
    }
    lines = "".join(f'"{name}" = {share}\n' for name, share in reference["labels"].items())
    (out / "postsort.toml").write_text(
        f'name = "{task}"\nlong = "{way["long"]}"\naggregation = "{way["aggregation"]}"\n'
        f'tokens_max = {TOKENS_MAX}\ntemperature = {way["temperature"]}\n\n[reference]\n'
        f'confidence = {reference["confidence"]}\nunknown_tokens = {reference["unknown_tokens"]}\n'
        f'tokens = {reference["tokens"]}\n\n[reference.labels]\n{lines}'
    )
    draw_confusion(test, truth, names, out / "confusion.png")
    (models / f"{task}-figures.json").write_text(json.dumps(facts, indent=1))
    (out / "README.md").write_text(card_head.written(facts))
    print(json.dumps({key: facts[key] for key in ("test", "calibration", "reference")}, indent=1))


if __name__ == "__main__":
    main()

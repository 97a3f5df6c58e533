"""Measures a trained model, chooses its settings on the validation split, and writes the folder
that ships: weights in f16, manifest, model card, precision and recall curve."""

import argparse
import json
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import card
import long_text
import measures
import splits

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

TOKENS_MAX = 256
BATCH = 32
# The last one is certain by the temperature of the one before.
WAYS = (("truncate", "max"), ("head_tail", "max"), ("window", "max"), ("window", "noisy_or"), ("window", "mean"), ("skim", "mean"))
HERE = Path(__file__).parent


def logits_of(model, tokenizer, mails, long):
    """Logits of each mail's windows, [windows, 2] in f32 each."""
    texts = long_text.token_ids(tokenizer, [mail["text"] for mail in mails])
    subjects = long_text.token_ids(tokenizer, [mail.get("subject", "") for mail in mails])
    rows = [(at, ids) for at, (text, subject) in enumerate(zip(texts, subjects))
            for ids in long_text.windows(text, subject, long, TOKENS_MAX)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][1]))
    found = np.zeros((len(rows), 2), dtype=np.float32)
    with torch.inference_mode():
        for i in range(0, len(order), BATCH):
            group = order[i : i + BATCH]
            found[group] = model(**long_text.padded(tokenizer, [rows[j][1] for j in group])).logits.numpy()
    owners = np.array([at for at, _ in rows])
    return [found[owners == at] for at in range(len(mails))]


def aggregate(windows, aggregation):
    """One row of logits a mail: the window surest of spam, the mean, or spam unless in no window."""
    if aggregation == "mean":
        return np.stack([rows.mean(0) for rows in windows])
    if aggregation == "noisy_or":
        sums = [np.logaddexp(0, (rows[:, 1] - rows[:, 0]).astype(np.float64)).sum() for rows in windows]
        single = [len(rows) == 1 for rows in windows]
        return np.stack([rows[0] if alone else [0.0, total + np.log(-np.expm1(-total))]
                         for rows, total, alone in zip(windows, sums, single)])
    return np.stack([rows[(rows[:, 1] - rows[:, 0]).argmax()] for rows in windows])


def skimmed(windows, temperature):
    """Those rows of each mail's that the server computes with `long = "skim"`."""
    def certainty(row):
        spam = float(measures.spam_probability(row[None], temperature)[0])
        return max(spam, 1 - spam)

    return long_text.skimmed(windows, certainty)


def read(model, tokenizer, mails, way):
    """Rows of logits that a way to read computes of each mail."""
    windows = logits_of(model, tokenizer, mails, way["long"])
    return skimmed(windows, way["temperature"]) if way["long"] == "skim" else windows


def labels_of(mails):
    """Labels, 1 for spam, [mails]."""
    return np.array([mail["label"] for mail in mails])


def choose(model, tokenizer, mails):
    """How to read long mail, temperature and threshold, all on the validation split."""
    labels = labels_of(mails)
    is_bulk = np.array([mail["group"] == "hard-ham-1" for mail in mails])
    by_long = {long: logits_of(model, tokenizer, mails, long) for long, _ in WAYS if long != "skim"}
    tried = []
    for long, aggregation in WAYS:
        if long == "skim":
            temperature = tried[-1]["temperature"]
            logits = aggregate(skimmed(by_long["window"], temperature), aggregation)
        else:
            logits = aggregate(by_long[long], aggregation)
            temperature = measures.fitted_temperature(logits, labels)
        probability = measures.spam_probability(logits, temperature)
        tried.append({
            "long": long,
            "aggregation": aggregation,
            "temperature": round(temperature, 3),
            "threshold": measures.chosen_threshold(probability, labels, is_bulk),
            "log_loss": measures.log_loss(probability, labels),
            "bulk_fpr": float((probability[is_bulk] >= 0.5).mean()),
            **measures.at_threshold(probability, labels, 0.5),
        })
        print(tried[-1], flush=True)
    return min(tried, key=lambda way: way["log_loss"]), tried


def reference(tokenizer, mails, windows, probability):
    """What answers on the validation split look like, of which so many windows each are read: drift is told from it."""
    texts = long_text.token_ids(tokenizer, [mail["text"] for mail in mails])
    subjects = long_text.token_ids(tokenizer, [mail.get("subject", "") for mail in mails])
    rows = []
    for text, subject, count in zip(texts, subjects, windows):
        own = long_text.windows(text, subject, "window", TOKENS_MAX)
        rows += [own[at] for at in long_text.spread(len(own), count)]
    tokens = sum(len(ids) + 2 for ids in rows)
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in rows)
    spam = float((probability >= 0.5).mean())
    return {"confidence": round(float(np.maximum(probability, 1 - probability).mean()), 4),
            "unknown_tokens": round(unknown / tokens, 5), "tokens": round(tokens / len(mails), 1),
            "ham": round(1 - spam, 4), "spam": round(spam, 4)}


def check_plain(model, tokenizer, mails):
    """`transformers` used the ordinary way answers as the evaluation here does."""
    texts = [mail["text"] for mail in mails]
    batch = tokenizer(texts, truncation=True, max_length=TOKENS_MAX, padding=True, return_tensors="pt")
    with torch.inference_mode():
        plain = model(**batch).logits.numpy()
    ours = aggregate(logits_of(model, tokenizer, mails, "truncate"), "max")
    difference = float(np.abs(plain - ours).max())
    if difference > 1e-3:
        raise SystemExit(f"plain transformers differs by {difference}")


def draw_curve(probability, labels, threshold, path):
    """Precision over recall, the chosen threshold marked."""
    order = np.argsort(-probability)
    hits = np.cumsum(labels[order])
    precision, recall = hits / np.arange(1, len(order) + 1), hits / hits[-1]
    chosen = measures.at_threshold(probability, labels, threshold)
    figure, axes = pyplot.subplots(figsize=(5, 3.6), dpi=90)
    axes.plot(recall, precision, color="#24527a")
    axes.plot(chosen["recall"], chosen["precision"], "o", color="#b5462a", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0.8, 1.005), ylim=(0.8, 1.005), title="Spam, test split")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--model", required=True, help="folder that train.py wrote")
    parser.add_argument("--out", required=True, help="folder that ships")
    parser.add_argument("--predictions", required=True, help="JSON lines with the answer for each mail")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    trained, out = Path(arguments.model), Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    for path in trained.iterdir():
        shutil.copyfile(path, out / path.name)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    parts, _ = splits.load(arguments.mails)
    facts = json.loads((trained.parent / "spam-training.json").read_text())
    if facts["mark"] != splits.mark(parts):
        raise SystemExit("the model was trained on other splits: train it again")
    check_plain(model, tokenizer, parts["validation"][:16])

    way, tried = choose(model, tokenizer, parts["validation"])
    threshold, temperature = way["threshold"], way["temperature"]
    probability, windows, logits, plain, unscaled = {}, {}, {}, {}, {}
    for split in ("validation", "test", "bulk"):
        windows[split] = read(model, tokenizer, parts[split], way)
        logits[split] = aggregate(windows[split], way["aggregation"])
        plain[split] = aggregate(logits_of(model, tokenizer, parts[split], "truncate"), "max")
        probability[split] = measures.spam_probability(logits[split], temperature)
        unscaled[split] = measures.spam_probability(logits[split], 1.0)
    probes = [{"text": line} for line in (HERE / "probes_ham.txt").read_text().splitlines()]
    probe_logits = aggregate(read(model, tokenizer, probes, way), way["aggregation"])
    probe_scores = measures.spam_probability(probe_logits, temperature)

    with open(arguments.predictions, "w") as file:
        for split in ("test", "bulk"):
            for at, mail in enumerate(parts[split]):
                line = {key: mail[key] for key in ("path", "label", "subject", "text")}
                line |= {"split": split, "logits": logits[split][at].tolist(),
                         "truncate_logits": plain[split][at].tolist()}
                file.write(json.dumps(line) + "\n")

    counts = [len(rows) for rows in windows["validation"]]
    usual = reference(tokenizer, parts["validation"], counts, probability["validation"])
    (out / "postsort.toml").write_text(
        f'name = "spam"\nlong = "{way["long"]}"\naggregation = "{way["aggregation"]}"\n'
        f"tokens_max = {TOKENS_MAX}\ntemperature = {temperature}\n\n[thresholds]\nspam = {threshold}\n\n"
        f"[reference]\nconfidence = {usual['confidence']}\nunknown_tokens = {usual['unknown_tokens']}\n"
        f"tokens = {usual['tokens']}\n\n[reference.labels]\nham = {usual['ham']}\nspam = {usual['spam']}\n"
    )
    test_labels = labels_of(parts["test"])
    draw_curve(probability["test"], test_labels, threshold, out / "pr_curve.png")
    heads = trained.parent / "training.json"
    facts["heads"] = json.loads(heads.read_text()) if heads.exists() else None
    facts |= {
        "way": way,
        "tried": tried,
        "tokens_max": TOKENS_MAX,
        "at": {split: measures.at_threshold(probability[split], labels_of(parts[split]), threshold)
               for split in probability},
        "plain": {split: measures.at_threshold(
            measures.spam_probability(plain[split], temperature), labels_of(parts[split]), threshold)
            for split in plain},
        "calibration": {split: {
            "before": measures.calibration_error(unscaled[split], labels_of(parts[split])),
            "after": measures.calibration_error(probability[split], labels_of(parts[split])),
        } for split in ("validation", "test")},
        "probes": {"count": len(probes), "highest": float(probe_scores.max()),
                   "spam": int((probe_scores >= threshold).sum())},
    }
    (trained.parent / "spam-figures.json").write_text(json.dumps(facts, indent=1))
    (out / "README.md").write_text(card.written(facts))
    print(json.dumps({key: facts[key] for key in ("at", "plain", "calibration", "probes")}, indent=1))
    for split in ("test", "bulk"):
        for at in np.flatnonzero((probability[split] >= threshold) != (labels_of(parts[split]) == 1)):
            print(f"wrong: {split} {parts[split][at]['path']} {probability[split][at]:.3f}")


if __name__ == "__main__":
    main()

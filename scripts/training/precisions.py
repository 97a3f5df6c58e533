"""The served model's answers on the test split in each precision, as a section of its card."""

import argparse
import json
from pathlib import Path

from serving import Server, spam_score

BATCH = 32


def served_scores(binary, models_dir, model, precision, mails):
    """Spam score of each mail, from a server in this precision; and how it was loaded."""
    server = Server(binary, models_dir, "--cache-dir", "none", "--precision", precision)
    try:
        scores = []
        for at in range(0, len(mails), BATCH):
            inputs = [{"subject": mail["subject"], "body": mail["body"]} for mail in mails[at : at + BATCH]]
            answer = server.ask("/v1/classify", {"model": model, "inputs": inputs, "timeout_ms": 600000})
            scores += [spam_score(result) for result in answer["results"]]
        return scores, server.ask(f"/v1/models/{model}")
    finally:
        server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/postsort")
    parser.add_argument("--model", required=True, help="the model's folder")
    parser.add_argument("--predictions", required=True, help="the test split, as evaluate.py wrote it")
    arguments = parser.parse_args()
    folder = Path(arguments.model)
    mails = [json.loads(line) for line in Path(arguments.predictions).read_text().splitlines()]
    for mail in mails:
        subject, text = mail["subject"] or "", mail["text"]
        mail["body"] = text[len(subject) + 1 :] if subject and text.startswith(subject) else text
    rows, exact = [], None
    for precision in ("f32", "bf16", "int8"):
        scores, info = served_scores(arguments.binary, str(folder), folder.name, precision, mails)
        threshold = info["thresholds"]["spam"]
        exact = exact or scores
        deltas = sorted(abs(a - b) for a, b in zip(scores, exact))
        right = sum((s >= threshold) == bool(m["label"]) for s, m in zip(scores, mails))
        same = sum((a >= threshold) == (b >= threshold) for a, b in zip(scores, exact))
        p99, most = deltas[len(deltas) * 99 // 100], deltas[-1]
        share = lambda count: f"{count / len(mails) * 100:.2f} %"
        rows.append(f"| {precision} | {info['kernels']} | {share(right)} | {share(same)} | {p99:.4f} | {most:.4f} |")
    print(f"""
## Precisions

The test split and the held-out bulk ham ({len(mails)} mails) through the server in each precision: its own decoding of subject and body, windows and all (`scripts/training/precisions.py`).

| precision | kernels | accuracy | verdict as in f32 | difference of score, 99th percentile | largest |
|---|---|---|---|---|---|
""" + "\n".join(rows))


if __name__ == "__main__":
    main()

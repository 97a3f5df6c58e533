"""Fine-tunes all-MiniLM-L6-v2 for spam and ham on the SpamAssassin corpus."""

import argparse
import json
import random
import re
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import splits

TOKENS_MAX = 256
EPOCHS = 3
BATCH = 32
LEARNING_RATE = 1.2e-4
HARD_HAM_COPIES = 6
SHORT_COPIES = 2
HERE = Path(__file__).parent


def excerpt(rng, text):
    """A few lines out of the middle: what a short mail of the same author would look like."""
    lines = [line for line in text.split("\n") if not line.startswith(">") and len(line) > 20]
    if not lines:
        return text
    start = rng.randrange(len(lines))
    return "\n".join(lines[start : start + rng.randint(1, 3)])


def without_subject(text):
    return text.split("\n", 1)[1] if "\n" in text else text


def examples(mails, rng):
    """One epoch's texts and labels, augmented anew in each."""
    drawn = []
    for mail in mails:
        copies = HARD_HAM_COPIES if mail["group"] == "hard-ham-1" else 1
        for _ in range(copies):
            text, chance = mail["text"], rng.random()
            if mail["label"] == 0 and mail["group"] != "hard-ham-1" and chance < 0.15:
                text = excerpt(rng, text)
            elif chance > 0.9:
                text = without_subject(text)
            drawn.append((text, mail["label"]))
    for name, label in (("personal_ham.txt", 0), ("short_spam.txt", 1)):
        drawn += [(line, label) for line in (HERE / name).read_text().splitlines()] * SHORT_COPIES
    rng.shuffle(drawn)
    return drawn


def batches(tokenizer, drawn, rng):
    """Batches of like length, so that little is padding."""
    encoded = tokenizer([text for text, _ in drawn], truncation=True, max_length=TOKENS_MAX)["input_ids"]
    order = sorted(range(len(drawn)), key=lambda i: len(encoded[i]) + rng.random() * 24)
    groups = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    rng.shuffle(groups)
    for group in groups:
        padded = tokenizer.pad({"input_ids": [encoded[i] for i in group]}, return_tensors="pt")
        yield padded, torch.tensor([drawn[i][1] for i in group])


def logits_of(model, tokenizer, texts):
    """Logits in f32, in the order of the texts."""
    model.eval()
    encoded = tokenizer(texts, truncation=True, max_length=TOKENS_MAX)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    logits = np.zeros((len(texts), model.config.num_labels), dtype=np.float32)
    with torch.no_grad():
        for i in range(0, len(order), 32):
            group = order[i : i + 32]
            padded = tokenizer.pad({"input_ids": [encoded[j] for j in group]}, return_tensors="pt")
            logits[group] = model(**padded).logits.float().numpy()
    return logits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mails", required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 where the CPU has it")
    arguments = parser.parse_args()

    torch.manual_seed(splits.SEED)
    rng = random.Random(splits.SEED)
    parts, counts = splits.load(arguments.mails)
    print(json.dumps(counts), flush=True)

    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.base, num_labels=2, id2label={0: "ham", 1: "spam"}, label2id={"ham": 0, "spam": 1},
        problem_type="single_label_classification",
    ).float()
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1]
    plain = [p for n, p in model.named_parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=LEARNING_RATE
    )
    steps = EPOCHS * -(-len(examples(parts["train"], random.Random(0))) // BATCH)
    warm_up = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, max(0.0, (steps - step) / (steps - warm_up)))
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.02)
    started, step = time.time(), 0
    for epoch in range(EPOCHS):
        model.train()
        for padded, labels in batches(tokenizer, examples(parts["train"], rng), rng):
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
                logits = model(**padded).logits
            loss = loss_of(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 20 == 0:
                print(f"epoch {epoch} step {step}/{steps} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
        texts = [mail["text"] for mail in parts["validation"]]
        guesses = logits_of(model, tokenizer, texts).argmax(1)
        truth = np.array([mail["label"] for mail in parts["validation"]])
        print(f"epoch {epoch}: validation accuracy {(guesses == truth).mean():.4f}", flush=True)

    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(out)
    counts["minutes"] = round((time.time() - started) / 60, 1)
    Path(arguments.mails).with_name("training.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main()

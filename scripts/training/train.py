"""Fine-tunes all-MiniLM-L6-v2 to tell spam from ham."""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import augment
import long_text
import splits

BATCH = 32
LEARNING_RATE = 1e-4
WARM_UP = 0.1
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.02
# The shipped weights are an exponential mean over about the last hundred steps.
MEAN_DECAY = 0.99


def batches(tokenizer, rng, drawn):
    """Batches of like length, so that little is padding."""
    subjects = long_text.token_ids(tokenizer, [subject for subject, _, _ in drawn])
    bodies = long_text.token_ids(tokenizer, [body for _, body, _ in drawn])
    rows = [
        (augment.cut(rng, subject, body), label)
        for subject, body, (_, _, label) in zip(subjects, bodies, drawn)
    ]
    rows.sort(key=lambda row: len(row[0]) + rng.random() * 24)
    groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    rng.shuffle(groups)
    for group in groups:
        ids = long_text.padded(tokenizer, [ids for ids, _ in group])
        yield ids, torch.tensor([label for _, label in group])


def head_accuracy(model, tokenizer, mails):
    """Share of mails that the model gets right from their first 256 tokens."""
    model.eval()
    rows = [long_text.windows(ids, [], "truncate", 256)[0]
            for ids in long_text.token_ids(tokenizer, [mail["text"] for mail in mails])]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    right = 0
    with torch.inference_mode():
        for i in range(0, len(order), BATCH):
            group = order[i : i + BATCH]
            guesses = model(**long_text.padded(tokenizer, [rows[j] for j in group])).logits.argmax(1)
            right += sum(int(guess) == mails[j]["label"] for guess, j in zip(guesses, group))
    return right / len(mails)


def groups_of_parameters(model):
    """Word embeddings stay as they are: most words are in a handful of the mails only."""
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--base", required=True, help="folder of the base model")
    parser.add_argument("--out", required=True, help="folder for the model")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps-max", type=int, default=0, help="stop early, to try the pipeline")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="for CPUs that multiply in bfloat16")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(splits.SEED)
    np.random.seed(splits.SEED)
    rng = random.Random(splits.SEED)
    parts, counts = splits.load(arguments.mails)
    print(json.dumps(counts), flush=True)

    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    tokenizer.model_max_length = 512
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.base,
        num_labels=2,
        id2label={0: "ham", 1: "spam"},
        label2id={"ham": 0, "spam": 1},
        problem_type="single_label_classification",
        dtype=torch.float32,
    )
    optimizer = torch.optim.AdamW(groups_of_parameters(model), lr=LEARNING_RATE)
    steps = arguments.epochs * math.ceil(len(augment.examples(random.Random(0), parts["train"])) / BATCH)
    warm_up = max(1, int(steps * WARM_UP))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up))
    )
    mean = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(MEAN_DECAY)
    )
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    started, step = time.monotonic(), 0
    for epoch in range(arguments.epochs):
        model.train()
        for ids, labels in batches(tokenizer, rng, augment.examples(rng, parts["train"])):
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
                logits = model(**ids).logits
            loss = loss_of(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step > warm_up:
                mean.update_parameters(model)
            if step % 20 == 0:
                seconds = time.monotonic() - started
                print(f"step {step}/{steps} loss {loss.item():.4f} {seconds:.0f} s", flush=True)
            if step == arguments.steps_max:
                break
        accuracy = head_accuracy(mean.module, tokenizer, parts["validation"])
        print(f"epoch {epoch + 1}: validation accuracy {accuracy:.4f}", flush=True)
        out = Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        half = AutoModelForSequenceClassification.from_config(mean.module.config)
        half.load_state_dict(mean.module.state_dict())
        half.half().save_pretrained(out)
        tokenizer.save_pretrained(out)
        facts = {
            **counts,
            "epochs": epoch + 1,
            "steps": step,
            "minutes": round((time.monotonic() - started) / 60, 1),
            "bf16": arguments.bf16,
        }
        (out.parent / "spam-training.json").write_text(json.dumps(facts, indent=1))
        if step == arguments.steps_max:
            break


if __name__ == "__main__":
    main()

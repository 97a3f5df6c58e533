"""Fine-tunes all-MiniLM-L6-v2 to tell spam from ham: several models at once, each with another order of
mails and other variations of them. Their mean is the model; all together teach what comes after."""

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoTokenizer

import augment
import encoders
import long_text
import measures
import splits

BATCH = 32
LEARNING_RATE = 2e-4
WARM_UP = 0.1
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.02
# Each batch is read twice, with other units dropped; that both say the same counts so much (R-Drop, Liang
# et al. 2021).
CONSISTENCY = 1.0
# The weights are an exponential mean over about the last hundred steps.
MEAN_DECAY = 0.99


def epoch_rows(tokenizer, rng, mails):
    """Sequences of an epoch with their labels, those of like length beside one another."""
    drawn = augment.examples(rng, mails)
    subjects = long_text.token_ids(tokenizer, [subject for subject, _, _ in drawn])
    bodies = long_text.token_ids(tokenizer, [body for _, body, _ in drawn])
    rows = [(augment.cut(rng, subject, body), label)
            for subject, body, (_, _, label) in zip(subjects, bodies, drawn)]
    rows.sort(key=lambda row: len(row[0]) + rng.random() * 24)
    return rows


def batches(tokenizer, rngs, order, mails, count):
    """Batches of like length for all models: ids, mask [models, batch, tokens], labels [models, batch]."""
    rows = [epoch_rows(tokenizer, rng, mails) for rng in rngs]
    steps = list(range(count))
    order.shuffle(steps)
    for step in steps:
        groups = [own[step * BATCH : (step + 1) * BATCH] for own in rows]
        flat = [row for group in groups for row in group]
        padded = long_text.padded(tokenizer, [ids for ids, _ in flat])
        shape = (len(groups), len(flat) // len(groups), -1)
        yield (padded["input_ids"].view(shape), padded["attention_mask"].bool().view(shape),
               torch.tensor([label for _, label in flat]).view(shape[:2]))


def optimizer_of(model):
    trained = list(model.own.values())
    return torch.optim.AdamW([
        {"params": [p for p in trained if p.ndim > 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim <= 2], "weight_decay": 0.0},
    ], lr=LEARNING_RATE)


def clip(model):
    """Each model's gradient to the length of one."""
    grads = [p.grad for p in model.own.values()]
    length = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
    factor = (1 / length).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor.view(-1, *[1] * (grad.ndim - 1)))


def loss_of(model, ids, mask, labels):
    """Sum over models of each one's mean over its batch."""
    one, other = model(ids, mask), model(ids, mask)
    cross = functional.cross_entropy
    loss = sum(cross(logits.flatten(0, 1), labels.flatten(), label_smoothing=LABEL_SMOOTHING) for logits in (one, other))
    one, other = one.log_softmax(-1), other.log_softmax(-1)
    apart = ((one.exp() - other.exp()) * (one - other)).sum(-1).mean()
    return (loss + CONSISTENCY * apart) * model.count


def figures(tokenizer, model, mails, device):
    """Accuracy and log loss on the first 256 tokens of mails: of each, of all together, of the mean."""
    model.eval()
    rows = [long_text.windows(ids, [], "truncate", 256)[0]
            for ids in long_text.token_ids(tokenizer, [mail["text"] for mail in mails])]
    labels = np.array([mail["label"] for mail in mails])
    single = model.mean().to(device)
    each, mean = np.zeros((model.count, len(mails), 2)), np.zeros((len(mails), 2))
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            group = order[start : start + BATCH]
            padded = long_text.padded(tokenizer, [rows[at] for at in group]).to(device)
            each[:, group] = model.each(padded["input_ids"], padded["attention_mask"]).float().cpu()
            mean[group] = single(**padded).logits.cpu()
    model.train()
    said = lambda logits: measures.spam_probability(logits, 1.0)
    describe = lambda p: (round(float(((p >= 0.5) == labels).mean()), 4), round(measures.log_loss(p, labels), 4))
    return {"each": np.mean([describe(said(logits)) for logits in each], 0).round(4).tolist(),
            "all": describe(said(each.mean(0))), "mean": describe(said(mean))}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--base", required=True, help="folder of the base model")
    parser.add_argument("--out", required=True, help="folder for the model; all of them go to teachers.safetensors beside it")
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps-max", type=int, default=0, help="stop early, to try the pipeline")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="for devices that multiply in bfloat16")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(splits.SEED)
    device = torch.device(arguments.device)
    parts, counts = splits.load(arguments.mails)
    print(json.dumps(counts), flush=True)

    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    tokenizer.model_max_length = 512
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    model = encoders.Encoders(arguments.base, arguments.models, dtype, device).train()
    probe = long_text.padded(tokenizer, long_text.token_ids(tokenizer, ["are we still on for lunch?", "20 % off, today only"]))
    apart = encoders.check(model.eval(), probe["input_ids"].to(device), probe["attention_mask"].to(device))
    assert apart < (0.1 if arguments.bf16 else 1e-3), f"logits {apart} from those of transformers"
    model.train()
    optimizer = optimizer_of(model)
    rngs = [random.Random(splits.SEED + at) for at in range(arguments.models)]
    order = random.Random(splits.SEED)
    count = math.ceil(len(augment.examples(random.Random(0), parts["train"])) / BATCH)
    steps = arguments.steps_max or count * arguments.epochs
    warm_up = max(1, int(steps * WARM_UP))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up)))
    mean = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(MEAN_DECAY))
    started, step = time.monotonic(), 0
    while step < steps:
        for ids, mask, labels in batches(tokenizer, rngs, order, parts["train"], count):
            loss = loss_of(model, ids.to(device), mask.to(device), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            clip(model)
            optimizer.step()
            schedule.step()
            step += 1
            if step > warm_up:
                mean.update_parameters(model)
            if step % 20 == 0:
                print(f"step {step}/{steps} loss {loss.item() / model.count:.4f} {time.monotonic() - started:.0f} s", flush=True)
            if step == steps:
                break
        if step % count == 0 or step == steps:
            # Accuracy, log loss.
            print(f"validation {figures(tokenizer, mean.module, parts['validation'], device)}", flush=True)
    minutes = round((time.monotonic() - started) / 60, 1)
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    mean.module.mean().half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    mean.module.save(out.parent / "teachers.safetensors")
    facts = {**counts, "mark": splits.mark(parts), "models": arguments.models, "epochs": round(step / count),
             "steps": step, "minutes": minutes, "bf16": arguments.bf16, "device": device.type}
    (out.parent / "spam-training.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()

"""What the model card states, out of probabilities and labels."""

import math

import numpy as np

BINS = 15


def spam_probability(logits, temperature):
    """Softmax of logits [mails, 2]; the probability of spam, [mails]."""
    return 1 / (1 + np.exp((logits[:, 0] - logits[:, 1]).astype(np.float64) / temperature))


def log_loss(probability, labels):
    """Mean negative logarithm of the probability that the true label got."""
    given = np.where(labels == 1, probability, 1 - probability)
    return float(-np.log(np.clip(given, 1e-12, 1)).mean())


def calibration_error(probability, labels):
    """Expected calibration error of the stated label (Guo et al. 2017), in 15 bins."""
    guess = probability >= 0.5
    certainty = np.where(guess, probability, 1 - probability)
    right = guess == (labels == 1)
    bins = np.minimum((certainty * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == b].mean() - certainty[bins == b].mean()) * (bins == b).mean()
            for b in range(BINS) if (bins == b).any()]
    return float(sum(gaps))


def fitted_temperature(logits, labels):
    """The temperature with the least log loss."""
    grid = np.exp(np.linspace(math.log(0.3), math.log(5), 200))
    return float(min(grid, key=lambda t: log_loss(spam_probability(logits, t), labels)))


def interval(hits, count):
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, hits / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)


def at_threshold(probability, labels, threshold):
    """Confusion, accuracy, precision, recall, F1 and false positive rate."""
    guess, spam = probability >= threshold, labels == 1
    tp, fp = int((guess & spam).sum()), int((guess & ~spam).sum())
    fn, tn = int((~guess & spam).sum()), int((~guess & ~spam).sum())
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return {
        "tp": tp, "fp": fp, "fn": fn, "tn": tn,
        "accuracy": (tp + tn) / len(labels),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "fpr": fp / (fp + tn) if fp + tn else 0.0,
    }


def chosen_threshold(probability, labels, is_bulk):
    """The best F1 with at most 1 % of ordinary and 15 % of bulk ham taken for spam; the middle of
    the widest run of equally good thresholds, so that it is far from the mails on both sides."""
    grid = np.round(np.arange(0.30, 0.951, 0.01), 2)
    ordinary, bulk = (labels == 0) & ~is_bulk, is_bulk
    scores = []
    for threshold in grid:
        spam = probability >= threshold
        allowed = spam[ordinary].mean() <= 0.01 and spam[bulk].mean() <= 0.15
        scores.append(at_threshold(probability, labels, threshold)["f1"] if allowed else -1.0)
    best, runs, start = max(scores), [], None
    for at, score in enumerate([*scores, None]):
        if score == best and start is None:
            start = at
        elif score != best and start is not None:
            runs.append((start, at - 1))
            start = None
    first, last = max(runs, key=lambda run: run[1] - run[0])
    return float(grid[(first + last) // 2])

"""Several BERT classifiers at once: each tensor has a leading dimension of models, so that a GPU that
one small model leaves idle fine-tunes many of them in the time of one. Computes what `transformers`
does (`check` says how exactly)."""

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

WORDS = "embeddings.word_embeddings.weight"


class Encoders(torch.nn.Module):
    """`count` copies of a classifier with two labels, word embeddings shared and kept as they are."""

    def __init__(self, folder, count, dtype, device):
        super().__init__()
        single = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=2,
            id2label={0: "ham", 1: "spam"},
            label2id={"ham": 0, "spam": 1},
            problem_type="single_label_classification",
            dtype=torch.float32,
        )
        self.config, self.dtype, self.count = single.config, dtype, count
        self.own = {}
        for name, tensor in single.state_dict().items():
            tensor = tensor.to(device)
            if name.removeprefix("bert.") == WORDS:
                self.words = tensor
            elif "position_ids" not in name:
                self.own[name.removeprefix("bert.")] = tensor.expand(count, *tensor.shape).contiguous()
        self.own = torch.nn.ParameterDict({name.replace(".", "/"): tensor for name, tensor in self.own.items()})

    def __getitem__(self, name):
        return self.own[name.replace(".", "/")]

    def dense(self, states, name):
        """[models, rows, inputs] → [models, rows, outputs]"""
        weight, bias = self[f"{name}.weight"].to(states.dtype), self[f"{name}.bias"].to(states.dtype)
        return torch.baddbmm(bias[:, None], states, weight.transpose(1, 2))

    def norm(self, states, name):
        states = functional.layer_norm(states.float(), states.shape[-1:], eps=self.config.layer_norm_eps)
        states = torch.addcmul(self[f"{name}.bias"][:, None], states, self[f"{name}.weight"][:, None])
        return states.to(self.dtype)

    def forward(self, ids, mask):
        """ids, mask [models, batch, tokens] → logits [models, batch, 2]"""
        models, batch, tokens = ids.shape
        heads = self.config.num_attention_heads
        drop = lambda states: functional.dropout(states, self.config.hidden_dropout_prob, self.training)
        states = functional.embedding(ids, self.words)
        states = states + self["embeddings.position_embeddings.weight"][:, None, :tokens]
        states = states + self["embeddings.token_type_embeddings.weight"][:, None, :1]
        states = drop(self.norm(states.reshape(models, batch * tokens, -1), "embeddings.LayerNorm"))
        padding = torch.zeros(models * batch, 1, 1, tokens, dtype=self.dtype, device=ids.device)
        padding = padding.masked_fill(~mask.reshape(models * batch, 1, 1, tokens), -1e4).expand(-1, heads, tokens, -1)
        split = lambda states: states.view(models * batch, tokens, heads, -1).transpose(1, 2)
        for layer in range(self.config.num_hidden_layers):
            at = f"encoder.layer.{layer}."
            query, key, value = (split(self.dense(states, f"{at}attention.self.{part}"))
                                 for part in ("query", "key", "value"))
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=padding,
                dropout_p=self.config.attention_probs_dropout_prob if self.training else 0.0)
            mixed = mixed.transpose(1, 2).reshape(models, batch * tokens, -1)
            mixed = drop(self.dense(mixed, f"{at}attention.output.dense"))
            states = self.norm(states + mixed, f"{at}attention.output.LayerNorm")
            wide = functional.gelu(self.dense(states, f"{at}intermediate.dense"))
            states = self.norm(states + drop(self.dense(wide, f"{at}output.dense")), f"{at}output.LayerNorm")
        first = states.view(models, batch, tokens, -1)[:, :, 0].float()
        return self.dense(drop(torch.tanh(self.dense(first, "pooler.dense"))), "classifier")

    def each(self, ids, mask):
        """Logits of one batch [batch, tokens] by every model, [models, batch, 2]."""
        every = lambda tensor: tensor.expand(self.count, *tensor.shape)
        return self(every(ids), every(mask.bool()))

    @torch.no_grad()
    def said(self, ids, mask):
        """What all of them together say of one batch [batch, tokens]: probabilities [batch, 2]."""
        return self.each(ids, mask).mean(0).softmax(1)

    def mean(self):
        """One classifier whose weights are the mean of all (Wortsman et al. 2022), as `transformers` has it."""
        single = AutoModelForSequenceClassification.from_config(self.config)
        prefixed = lambda name: name if name.startswith("classifier") else f"bert.{name}"
        state = {prefixed(name.replace("/", ".")): tensor.detach().mean(0) for name, tensor in self.own.items()}
        missing = single.load_state_dict({**state, f"bert.{WORDS}": self.words}, strict=False)
        assert not [name for name in missing.missing_keys if "position_ids" not in name], missing
        return single.eval()

    def save(self, path):
        save_file({name: tensor.detach().half().contiguous() for name, tensor in self.own.items()}, path)

    @staticmethod
    def load(folder, path, dtype, device):
        """What `save` wrote, on top of the model in `folder`."""
        tensors = load_file(path)
        encoders = Encoders(folder, next(iter(tensors.values())).shape[0], dtype, device)
        with torch.no_grad():
            for name, tensor in tensors.items():
                encoders.own[name].copy_(tensor)
        return encoders.eval()


def check(encoders, ids, mask):
    """The greatest difference of logits to what `transformers` computes with the mean of the weights."""
    with torch.no_grad():
        ours = encoders.each(ids, mask)
        theirs = encoders.mean().to(ids.device)(input_ids=ids, attention_mask=mask).logits
    return float((ours.float() - theirs).abs().max())

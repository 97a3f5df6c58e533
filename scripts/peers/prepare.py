"""Writes what the peers load: `prepare.py OUT --model DIR`, or `--shape NAME` for random weights.

OUT/model is the Hugging Face folder, beside it plain.onnx, fused.onnx, both again in int8, and
openvino.xml."""

import argparse
import shutil
import sys
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from transformers import AttentionInterface, AutoConfig, AutoModelForSequenceClassification

# Its converter would report each use to its makers.
sys.modules["openvino_telemetry"] = None
import openvino  # noqa: E402

FIXTURES = Path(__file__).parents[2] / "models/tests/fixtures"
SHAPES = {
    "bert-tiny": ("bert", "large-bert-tiny", dict(
        vocab_size=30522, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)),
    "minilm-l6": ("bert", "large-bert-tiny", dict(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)),
    "distilbert-base": ("distilbert", "large-distilbert-base", dict(vocab_size=30522)),
    "roberta-base": ("roberta", "large-roberta-base", dict(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)),
}


def random_model(shape, folder):
    """A folder of that shape whose weights come from a fixed seed."""
    kind, fixture, settings = SHAPES[shape]
    torch.manual_seed(20021015)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():
        for value in model.parameters():
            # New biases are all zero and new norms all one, which exporters would fold.
            value.add_(torch.randn_like(value) * 0.02)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / fixture / name, folder)


def divided_attention(module, query, key, value, attention_mask, scaling, **_):
    """Attention in the steps that ONNX Runtime's fusion looks for: it takes a product beside the
    mask for the mask."""
    scores = query @ key.transpose(2, 3) / (1 / scaling)
    scores = torch.softmax(scores + attention_mask, dim=-1)
    return (scores @ value).transpose(1, 2).contiguous(), None


class Exported(torch.nn.Module):
    """Takes a mask of 0 and 1, in the steps that the fusion looks for."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        mask = attention_mask.unsqueeze(1).unsqueeze(2).to(torch.float32)
        mask = (1.0 - mask) * torch.finfo(torch.float32).min
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=mask, **types).logits


def export_onnx(folder, inputs, out):
    """plain.onnx; fused.onnx, which ONNX Runtime's optimizer makes of it; and both in int8. What was fused."""
    AttentionInterface.register("divided", divided_attention)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="divided").eval()
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    torch.onnx.export(
        Exported(model), tuple(inputs.values()), out / "plain.onnx", input_names=list(inputs), output_names=["logits"],
        dynamic_axes=axes, opset_version=17, dynamo=False)
    fused = optimizer.optimize_model(
        str(out / "plain.onnx"), model_type="bert", num_heads=model.config.num_attention_heads,
        hidden_size=model.config.hidden_size)
    fused.save_model_to_file(str(out / "fused.onnx"))
    for name in ("plain", "fused"):
        quantize_dynamic(
            out / f"{name}.onnx", out / f"{name}-int8.onnx", per_channel=True, reduce_range=False,
            weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
    return {name: count for name, count in fused.get_fused_operator_statistics().items() if count}


def export_openvino(folder, inputs, out):
    """openvino.xml, through OpenVINO's own reader of PyTorch models."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    converted = openvino.convert_model(model, example_input=dict(inputs))
    openvino.save_model(converted, out / "openvino.xml", compress_to_fp16=False)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path)
    source.add_argument("--shape", choices=SHAPES)
    args = parser.parse_args()
    folder = args.out / "model"
    if args.shape:
        random_model(args.shape, folder)
    else:
        folder.symlink_to(args.model.resolve())
    ids = torch.randint(5, 100, (2, 16))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(AutoConfig.from_pretrained(folder), "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    fused = export_onnx(folder, inputs, args.out)
    export_openvino(folder, inputs, args.out)
    print("ONNX Runtime's optimizer fused", fused)


if __name__ == "__main__":
    main()

"""Writes olmo2_tiny.safetensors: weights, tokens and logits of a tiny Olmo2ForCausalLM.

Run once:  pip install torch==2.13.0 transformers safetensors && python tests/golden/make_olmo2.py
Norm scales are random, since a scale that a model drops goes unnoticed while it is 1.
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "tie_word_embeddings": False,
}

torch.manual_seed(0)
model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**CONFIG)).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        spread = 1 + 0.3 * torch.randn_like(parameter)
        parameter.copy_(spread if "norm" in name else 0.3 * torch.randn_like(parameter))
    tokens = torch.randint(0, CONFIG["vocab_size"], (2, 48))
    logits = model(tokens).logits
tensors = {f"weights.{name}": p.detach().contiguous() for name, p in model.named_parameters()}
tensors |= {"tokens": tokens.to(torch.int32), "logits": logits.contiguous()}
made_by = {"torch": torch.__version__, "transformers": transformers.__version__}
save_file(tensors, Path(__file__).with_name("olmo2_tiny.safetensors"), metadata=made_by)
print(made_by, float(logits.std()))

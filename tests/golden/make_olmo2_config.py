"""Writes olmo2_config_v4.json or _v5.json: config.json as that version of transformers saves it.

Run once with each:  pip install transformers==4.57.3 (or ==5.23.0) && \
python tests/golden/make_olmo2_config.py
The model is that of make_olmo2.py.
"""

from pathlib import Path

import transformers

version = transformers.__version__.split(".")[0]
theta = 500_000.0
rope = {
    "4": {"rope_theta": theta},
    "5": {"rope_parameters": {"rope_type": "default", "rope_theta": theta}},
}
config = transformers.Olmo2Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    architectures=["Olmo2ForCausalLM"],
    pad_token_id=None,
    eos_token_id=None,
    **rope[version],
)
path = Path(__file__).with_name(f"olmo2_config_v{version}.json")
path.write_text(config.to_json_string(), encoding="utf-8")
print(transformers.__version__, path)

"""Model: Qwen2 and Qwen2.5. As Llama, with biases on q, k and v but none on attention's output."""

from ..nn.load import Loader
from ..types import ModelConfig
from .llama import Decoder, build_decoder

ARCHITECTURES = ("Qwen2ForCausalLM",)


def build(config: ModelConfig, loader: Loader) -> Decoder:
    """The model with the weights that ``loader`` reads."""
    return build_decoder(config, loader, output_bias=False)

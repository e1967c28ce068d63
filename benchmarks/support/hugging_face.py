"""A GGUF file's model as a folder in Hugging Face's layout, for engines that read nothing else."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer

from paceline.engine.formats import gguf
from paceline.engine.store.located import Located


def export(located: Located, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """``folder`` with config, tokenizer and weights as ``dtype``; made once."""
    if (folder / "model.safetensors").exists():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    file = Path(located.files[0])
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    source = gguf.open(located)
    try:
        names = [name for name in source.names if name != "rope_freqs.weight"]
        tensors = {name: source.read(name).to(dtype).contiguous() for name in names}
    finally:
        source.close()
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    config.save_pretrained(part)
    written = json.loads((part / "config.json").read_text())
    if not written.get("architectures"):
        written["architectures"] = [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[config.model_type]]
    written["torch_dtype"] = str(dtype).removeprefix("torch.")
    (part / "config.json").write_text(json.dumps(written, indent=1))
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(part)
    save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
    part.rename(folder)
    return folder

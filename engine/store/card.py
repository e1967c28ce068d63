"""ModelCard: what serving must know of a model before its weights are loaded. No torch; reads headers only."""

from collections import Counter

from ..formats.headers import gguf, safetensors
from . import card_gguf, card_hf, catalog
from .located import Located, ModelCard
from .preset import Preset


def read(located: Located) -> ModelCard:
    """The card of a located model, from ``config.json`` and its neighbours or from GGUF metadata.

    Raises:
        StoreError: a file that every model needs is missing.
        BadModelFileError: one is damaged, or the architecture is not ours; names file and key.
    """
    card = card_gguf.read(located) if located.kind == "gguf" else card_hf.read(located)
    preset = located.preset or Preset()
    entry = catalog.find(preset.base or located.name)
    defaults = (entry.defaults if entry else {}) | card.defaults | preset.sampling
    return ModelCard(
        name=located.name,
        model=card.model,
        tokenizer=card.tokenizer,
        chat_template=preset.chat_template or card.chat_template,
        special_tokens=card.special_tokens,
        bos_id=card.bos_id,
        add_bos=card.add_bos,
        end_ids=card.end_ids,
        defaults={name: value for name, value in defaults.items() if value is not None},
        system=preset.system or "",
        messages=preset.messages,
        size_bytes=sum(located.sizes),
        quantization=quantization(located),
        license=preset.license or card.license or (entry.license if entry else ""),
        pooling=card.pooling,
        embedding_dimensions=card.embedding_dimensions,
        response_template=card.response_template,
        marker_ids=card.marker_ids,
    )


def quantization(located: Located) -> str:
    """How the weights are stored, for people: ``Q4_K_M`` where a GGUF says so, else the type of most bytes.

    Raises:
        BadModelFileError: a header is damaged.
    """
    weight: Counter[str] = Counter()
    if located.kind == "gguf":
        header = gguf.read_header(located.files[0], skip_arrays=True)
        if named := card_gguf.FILE_TYPES.get(header.metadata.get("general.file_type")):
            return named
        for info in header.tensors.values():
            weight[info.type_name] += info.num_bytes
    else:
        for info in safetensors.read_header(located.files[0]).tensors.values():
            weight[info.dtype] += info.num_bytes
    return weight.most_common(1)[0][0] if weight else ""

"""Where other packages look for ``model_config_from_hf``; see ``headers.hf_config``."""

from .headers.hf_config import model_config_from_hf as model_config_from_hf

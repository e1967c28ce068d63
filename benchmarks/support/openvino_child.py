"""Runs in an environment that has OpenVINO GenAI: a line of JSON in, its prompts answered, a line of JSON out.

All prompts of a line are given at once, as many running together as it says: what a server would give it, without one.
"""

import json
import sys
import time
from typing import Any


def wanted(genai: Any, max_tokens: int) -> Any:
    """What is asked of each prompt: so many tokens, greedily, of the prompt as it is."""
    config = genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
    config.apply_chat_template = False
    return config


def main() -> None:
    import openvino_genai as genai  # pyright: ignore[reportMissingImports]

    pipelines: dict[int, Any] = {}
    for line in sys.stdin:
        work = json.loads(line)
        if work["clients"] not in pipelines:
            pipelines.clear()  # one pool of pages at a time
            settings = genai.SchedulerConfig()
            settings.cache_size = 2
            settings.max_num_seqs = work["clients"]
            settings.enable_prefix_caching = False
            made = genai.ContinuousBatchingPipeline(sys.argv[1], settings, "CPU")
            made.generate(["Hello"] * work["clients"], [wanted(genai, 4)] * work["clients"])
            pipelines[work["clients"]] = made
        pipeline = pipelines[work["clients"]]
        tokenizer = pipeline.get_tokenizer()
        counts = [tokenizer.encode(prompt).input_ids.shape[1] for prompt in work["prompts"]]
        begun = time.monotonic()
        pipeline.generate(work["prompts"], [wanted(genai, work["max_tokens"])] * len(counts))
        took = time.monotonic() - begun
        done = {"seconds": took, "prompt_tokens": sum(counts), "output_tokens": work["max_tokens"] * len(counts)}
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()

"""Turns a child into a GGUF and chats with it in llama.cpp, unmodified.

pip install -c constraints.txt -e ".[demo,serve-llama]"
puzzle search --demo --out puzzle-run
python examples/serve_llama_cpp.py puzzle-run/child "Why is the sky blue?"
"""

from __future__ import annotations

import argparse

import xllamacpp

import puzzle


def main() -> None:
    """Exports, loads and answers one message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("child", help="directory of a child")
    parser.add_argument("message")
    parser.add_argument("--quantisation", default="q8_0")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()

    done = puzzle.export(
        options.child,
        f"{options.child}-gguf",
        engine="llama.cpp",
        quantisation=options.quantisation,
    )
    print(f"{done.path}: {done.path.stat().st_size / 2**20:.0f} MiB")
    for layer, notes in done.rewritten.items():
        print(f"layer {layer} is stored as {'; '.join(notes)}")

    params = xllamacpp.CommonParams()
    params.model.path = str(done.path)
    params.n_ctx = 2048
    params.verbosity = 1
    # Without flash attention every layer's cache would be as wide as the widest one's.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    server = xllamacpp.Server(params)
    answer = server.handle_chat_completions(
        {
            "messages": [{"role": "user", "content": options.message}],
            "max_tokens": options.tokens,
            "temperature": 0.0,
        }
    )
    print(answer["choices"][0]["message"]["content"])
    timings = answer["timings"]
    print(f"{timings['predicted_per_second']:.0f} tokens/s")


if __name__ == "__main__":
    main()

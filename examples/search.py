"""From a pretrained model and some text to a faster child, in Python.

Run it with the demo packages installed: `python examples/search.py`. Any hub id, directory, GGUF
file or live Llama model can stand in for `fetch_demo_model()`, and your own text for `demo_text()`.
"""

import puzzle
from puzzle.demo import DEMO_DATA, demo_text, fetch_demo_model


def main() -> None:
    """Searches, shows the table, saves the child and lets it write a sentence."""
    result = puzzle.search(
        fetch_demo_model(),
        demo_text(),
        constraints=["throughput >= 1.25x", "memory <= 0.95x"],
        scenario=puzzle.Scenario(batch=8, prompt_tokens=128, generated_tokens=128),
        data=DEMO_DATA,
        out="puzzle-run",
    )
    print(result.table())
    print(result.layout)
    print("saved in", result.save("puzzle-run/child"))

    child, tokenizer = result.child(), result.library.parent.tokenizer
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    reply = child.generate(**prompt, max_new_tokens=24, do_sample=False)
    print(tokenizer.decode(reply[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()

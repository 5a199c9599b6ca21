"""Claims about serving engines as black boxes: real processes that work, crash, hang and lie."""

import importlib.util
import json
import os
import subprocess
import sys
import time

import pytest
from transformers import LlamaConfig

from puzzle.costs.calibrated.engines.command import Command
from puzzle.costs.calibrated.engines.engine import Timing
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp
from puzzle.costs.calibrated.engines.process import last_json, run_command
from puzzle.costs.calibrated.engines.torch_generate import TorchGenerate
from puzzle.costs.calibrated.engines.vllm import Vllm, read_latencies
from puzzle.costs.calibrated.session import Session
from puzzle.errors import EngineError
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import config_from_layout
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout, ModelShape

SCENARIO = Scenario(batch=2, prompt_tokens=6, generated_tokens=32, weight_dtype="float32")
CONFIG = LlamaConfig(
    num_hidden_layers=4,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=128,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)
SHAPE = ModelShape(
    layers=4, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=96, vocab=128, tied=True
)
needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None,
    reason="xllamacpp has no wheel for this platform; the extra [test] installs it elsewhere",
)


def config(*labels):
    blocks = tuple(map(Block.from_label, labels))
    return config_from_layout(CONFIG, Layout(SHAPE, blocks) if labels else Layout.parent(SHAPE))


def python(code, tmp_path, **options):
    options = {"timeout": 20, "log": tmp_path / "engine.log", **options}
    return run_command([sys.executable, "-c", code], **options)


def test_what_a_command_prints_is_returned_and_its_stderr_is_kept(tmp_path):
    code = "import sys; print('out'); print('complaint', file=sys.stderr)"
    assert python(code, tmp_path).split() == ["out"]
    assert "complaint" in (tmp_path / "engine.log").read_text()


def test_a_crash_is_told_with_the_end_of_the_log(tmp_path):
    with pytest.raises(EngineError, match=r"exit code 3.*engine\.log(.|\n)*no such layer") as found:
        python("import sys; print('no such layer', file=sys.stderr); sys.exit(3)", tmp_path)
    assert str(tmp_path) in str(found.value)
    with pytest.raises(EngineError, match="SIGABRT"):
        python("import os; os.abort()", tmp_path)


def test_a_hang_ends_at_the_time_out_with_all_it_started(tmp_path):
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "print('waiting for a lock', file=sys.stderr, flush=True)\n"
        "time.sleep(60)"
    )
    with pytest.raises(EngineError, match=r"no answer in 1\.5 s(.|\n)*waiting for a lock"):
        python(code, tmp_path, timeout=1.5)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}") or "Z" in _state(pid):
            return
        time.sleep(0.02)
    raise AssertionError("the child of the command still runs")


def _state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(EngineError, match="'no-such-engine' cannot be run"):
        run_command(["no-such-engine"], timeout=1, log=tmp_path / "log")
    with pytest.raises(EngineError, match="no-such-engine"):
        Command(command="no-such-engine {model}").check()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ('{"throughput": NaN}', "only finite numbers"),
        ('{"a": [1, -Infinity]}', "only finite numbers"),
        ("done\n", "printed no JSON object"),
        ("{broken\n", "printed no JSON object"),
    ],
)
def test_an_output_without_numbers_is_refused(output, message):
    with pytest.raises(EngineError, match=message):
        last_json(output, "engine")


def test_the_last_json_object_of_an_output_counts():
    assert last_json('{"a": 1}\nloading {\n{"a": 2}\nbye\n', "engine") == {"a": 2}


@pytest.mark.parametrize("bad", [float("nan"), 0.0, -1.0, float("inf")])
def test_a_time_that_is_none_is_refused(bad):
    with pytest.raises(EngineError, match="decode"):
        Timing(prefill=(1.0,), decode=(bad,))
    with pytest.raises(EngineError, match="no times"):
        Timing()


def command(tmp_path, code, **options):
    script = tmp_path / "engine.py"
    script.write_text(code)
    line = f"{sys.executable} {script} {{model}} {{batch}} {{generated_tokens}}"
    return Command(command=line, weights=False, **options)


def run(engine, tmp_path, *configs, scenario=SCENARIO):
    models = []
    for index, each in enumerate(configs):
        models.append(tmp_path / f"model-{index}")
        models[-1].mkdir()
        engine.write(each, scenario, models[-1])
    return engine.run(models, scenario, log=tmp_path / "log")


def test_a_command_is_given_the_layout_and_the_scenario(tmp_path):
    code = (
        "import json, sys, pathlib\n"
        "layout = json.loads((pathlib.Path(sys.argv[1]) / 'layout.json').read_text())\n"
        "kinds = [block['ffn']['kind'] for block in layout['blocks']]\n"
        "tokens = int(sys.argv[2]) * int(sys.argv[3])\n"
        "print(json.dumps({'throughput': tokens / kinds.count('none')}))"
    )
    labels = ["gqa2+none", "none+gated96", "gqa2+none", "none+linear"]
    (timing,) = run(command(tmp_path, code), tmp_path, config(*labels))
    assert timing.seconds == pytest.approx((2.0,))
    assert timing.phases == ("seconds",)


def test_a_command_may_tell_prefill_and_decode_apart(tmp_path):
    code = 'print(\'{"prefill_throughput": 24, "decode_throughput": 2}\')'
    (timing,) = run(command(tmp_path, code), tmp_path, config())
    assert timing.median("prefill") == pytest.approx(0.5)
    assert timing.median("decode") == pytest.approx(32.0)
    assert timing.median("seconds") == pytest.approx(32.5)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('{\"throughput\": NaN}')", "only finite"),
        ("print('{\"throughput\": 0}')", "throughput = 0"),
        ('print(\'{"throughput": "fast"}\')', "throughput = 'fast'"),
        ("print('{\"prefill_throughput\": 1}')", "must hold prefill_throughput and"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_a_command_that_measures_nothing_is_an_error(tmp_path, code, message):
    with pytest.raises(EngineError, match=message):
        run(command(tmp_path, code), tmp_path, config())


def test_a_command_has_to_say_where_the_model_goes():
    with pytest.raises(EngineError, match=r"write \{model\}"):
        Command(command="bench --model here")


def test_a_command_gets_weights_that_load(tmp_path):
    from transformers import AutoModelForCausalLM

    engine = Command(command="true {model}")
    labels = ["gqa1+none", "none+linear", "linear+gated32", "none+none"]
    engine.write(config(*labels), SCENARIO, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert Layout.load(tmp_path / "layout.json").blocks[0] == model.config.block(0)


def test_torch_generates_all_layouts_and_tells_prefill_from_decode(tmp_path):
    engine = TorchGenerate(rounds=2)
    engine.check()
    found = run(engine, tmp_path, config(), config("gqa1+none", "none+linear", *["none+none"] * 2))
    assert [(len(t.prefill), len(t.decode)) for t in found] == [(2, 2), (2, 2)]
    assert json.dumps(engine.record())


def test_a_device_torch_lacks_is_an_error_before_long_work():
    with pytest.raises(EngineError, match=r"torch .* cannot use 'cuda:99'"):
        TorchGenerate(device="cuda:99").check()
    with pytest.raises(EngineError, match="clock='cpu'"):
        TorchGenerate(device="cuda", clock="cpu")
    with pytest.raises(EngineError, match="allowed: 'wall', 'cpu'"):
        LlamaCpp(clock="sun")


def test_llama_cpp_missing_says_what_to_install(tmp_path):
    bare = tmp_path / "python"
    # Without site there are no installed packages.
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(EngineError, match="-m pip install xllamacpp"):
        LlamaCpp(python=str(bare)).check()


@needs_llama_cpp
@pytest.mark.parametrize("weights", [None, "f16", "q8_0"])
def test_llama_cpp_runs_every_sublayer_in_every_place(tmp_path, weights):
    engine = LlamaCpp(weights=weights, threads=1, rounds=2, clock="cpu")
    engine.check()
    odd = config("none+linear", "gqa1+none", "linear+gated32", "none+none")
    none = config(*["gqa2+none", "none+none"] * 2)
    # Long enough for decoding to stand out of what a request takes anyway.
    long = Scenario(batch=2, prompt_tokens=6, generated_tokens=200, weight_dtype="float32")
    found = run(engine, tmp_path, config(), odd, none, scenario=long)
    assert [len(timing.decode) for timing in found] == [2, 2, 2]
    assert json.dumps(engine.record())


@needs_llama_cpp
def test_a_model_that_llama_cpp_cannot_read_is_an_error_with_its_log(tmp_path):
    engine = LlamaCpp(threads=1, rounds=1)
    engine.write(config(), SCENARIO, tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(EngineError, match=r"log is .*engine\.log"):
        engine.run([tmp_path], SCENARIO, log=tmp_path / "engine.log")


def test_a_gguf_type_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(EngineError, match="weights='q9'"):
        LlamaCpp(weights="q9").write(config(), SCENARIO, tmp_path)


def test_the_worker_needs_nothing_of_ours():
    from puzzle.costs.calibrated.engines.llama_cpp import WORKER

    code = f"import runpy, sys; runpy.run_path({str(WORKER)!r}); print('torch' in sys.modules)"
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def vllm_stand_in(tmp_path, seconds):
    """Returns an interpreter that answers like `vllm bench latency`, for machines without one."""
    script = tmp_path / "bench.py"
    script.write_text(
        "import json, sys\n"
        "args = dict(zip(sys.argv, sys.argv[1:]))\n"
        "config = json.load(open(args['--model'] + '/config.json'))\n"
        "assert config['architectures'] == ['DeciLMForCausalLM'], config\n"
        f"latencies = [{seconds} * int(args['--output-len'])] * int(args['--num-iters'])\n"
        "json.dump({'avg_latency': 0, 'latencies': latencies}, open(args['--output-json'], 'w'))\n"
    )
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$1" != -c ]; then exec {sys.executable} {script} "$@"; fi\nexit 0\n'
    )
    python.chmod(0o755)
    return str(python)


def test_what_vllm_bench_writes_becomes_prefill_and_decode(tmp_path):
    engine = Vllm(python=vllm_stand_in(tmp_path, 0.5), iterations=3)
    (timing,) = run(engine, tmp_path, config("gqa1+none", *["gqa2+gated96"] * 3))
    assert timing.prefill == pytest.approx((0.5,) * 3)
    assert timing.median("decode") == pytest.approx(0.5 * 32)


def test_latencies_that_vllm_did_not_write_are_an_error(tmp_path):
    with pytest.raises(EngineError, match=r"log is .*engine\.log"):
        read_latencies(tmp_path / "absent.json", tmp_path / "engine.log")
    (tmp_path / "nan.json").write_text('{"latencies": [NaN]}')
    with pytest.raises(EngineError, match="above zero"):
        read_latencies(tmp_path / "nan.json", tmp_path / "engine.log")


def test_vllm_missing_says_what_to_install(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(EngineError, match="pip install vllm"):
        Vllm(python=str(bare)).check()


def test_values_of_the_environment_are_hashed_wherever_they_are_kept(tmp_path):
    script = tmp_path / "measure.py"
    script.write_text("import os; assert os.environ['TOKEN']; print('{\"throughput\": 5.0}')")
    line = f"{sys.executable} {script} {{model}}"
    engines = [
        Command(command=line, environment={"TOKEN": token}, label="../../outside")
        for token in ("hf_secret", "hf_other")
    ]
    assert engines[0].record() != engines[1].record()
    assert engines[0].record()["environment"].keys() == {"TOKEN"}
    assert "hf_secret" not in json.dumps(engines[0].record()) + repr(engines[0])
    assert "hf_secret" not in repr(Vllm(environment={"TOKEN": "hf_secret"}))
    run = Workspace(tmp_path / "deep" / "run")
    session = Session(engine=engines[0], config=config(), scenario=SCENARIO, workspace=run)
    session.measure(Layout.parent(SHAPE))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hf_secret" in path.read_bytes()]
    assert {path.name.split("-")[0] for path in (run.root / "logs").iterdir()} == {".._.._outside"}
    assert all(path.is_relative_to(run.root) or path == script for path in written)


def test_a_run_directory_named_like_a_placeholder_stays_what_it_is(tmp_path):
    model = tmp_path / "{batch} of {prompt_tokens}'s"
    model.mkdir()
    (model / "config.json").write_text("{}")
    code = "import os, sys, json; print(json.dumps({'throughput': 1 + os.path.isdir(sys.argv[1])}))"
    script = tmp_path / "measure.py"
    script.write_text(code)
    engine = Command(command=f"{sys.executable} {script} {{model}} --batch {{batch}}")
    (timing,) = engine.run([model], SCENARIO, log=tmp_path / "log")
    assert timing.seconds == (SCENARIO.batch * SCENARIO.generated_tokens / 2,)

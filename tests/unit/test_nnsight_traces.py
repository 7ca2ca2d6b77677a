"""nnsight's manners: free-form traces, threads, hooks, process-wide patches, and how it fails."""

import subprocess
import sys
import threading

import pytest
import torch

from tests.helpers import random_ids, tiny

IDS = random_ids(2, 8, seed=1)


@pytest.fixture(scope="module")
def native():
    import lensbench

    return lensbench.load_model(tiny("gemma2", seed=3), certify=False)


@pytest.fixture(scope="module")
def traced(native):
    import lensbench

    return lensbench.load_model(native, backend="nnsight")


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_trace_reads_every_site_and_plain_modules(native) -> None:
    acts = native.run(IDS, capture=native.sites()).acts
    with native.trace(IDS) as t:
        pre = t.site("blocks.1.resid_pre").save()
        scale = t.site("blocks.1.ln1.scale").save()
        pattern = t.site("blocks.1.attn.pattern").save()
        mid = t.site("blocks.1.hook_resid_mid").save()
        out = t.modules.model.layers[1].output.clone().save()
        logits = t.site("logits").save()
    torch.testing.assert_close(pre, acts["blocks.1.resid_pre"], rtol=0, atol=1e-6)
    torch.testing.assert_close(scale, acts["blocks.1.ln1.scale"], rtol=0, atol=1e-6)
    torch.testing.assert_close(pattern, acts["blocks.1.attn.pattern"], rtol=0, atol=1e-6)
    torch.testing.assert_close(mid, acts["blocks.1.resid_mid"], rtol=0, atol=1e-6)
    torch.testing.assert_close(out, acts["blocks.1.resid_post"], rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, acts["logits"], rtol=0, atol=1e-6)
    assert float((pre - mid).abs().max()) > 1e-2  # control: the sites differ


def test_a_trace_writes_what_a_plan_writes(native) -> None:
    from lensbench.plan import Add, Zero, edit

    with native.trace(IDS) as t:
        t.set("blocks.1.attn.z", torch.zeros(2, 8, 4, 12))
        t.set("blocks.2.resid_post", t.site("blocks.2.resid_post") + 1.5)
        logits = t.site("logits").save()
    plan = edit("blocks.1.attn.z", Zero()) + edit("blocks.2.resid_post", Add(1.5))
    expected = native.run(IDS, plan).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    assert float((expected - native.run(IDS).logits).abs().max()) > 1e-2  # control


def test_gradients_inside_a_trace_equal_those_of_a_run(native) -> None:
    with native.trace(IDS, grad=True) as t:
        h = t.site("blocks.1.resid_post")
        loss = t.site("logits")[:, -1, 7].sum()
        with loss.backward():
            got = h.grad.save()
    out = native.run(IDS, capture=["blocks.1.resid_post"], grad=True)
    (want,) = torch.autograd.grad(out.logits[:, -1, 7].sum(), list(out.acts.values()))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    assert float(want.abs().max()) > 1e-4


def test_a_saved_site_is_not_changed_by_writing_into_it(native) -> None:
    with native.trace(IDS) as t:
        kept = t.site("blocks.1.resid_post").save()
        other = t.site("blocks.2.resid_pre")
        other[:] = 0.0
        logits = t.site("logits").save()
    acts = native.run(IDS, capture=["blocks.1.resid_post"])
    torch.testing.assert_close(kept, acts.acts["blocks.1.resid_post"], rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, acts.logits, rtol=0, atol=1e-6)
    with native.trace(IDS) as t:  # control: nnsight's own value aliases what flows on
        raw = t.modules.model.layers[1].output.save()
        t.modules.model.layers[1].output[:] = 0.0
    assert float(raw.abs().max()) == 0.0


def test_a_trace_names_what_it_cannot_do(native) -> None:
    from lensbench.errors import BackendUnavailableError, ConfigError, UnknownSiteError

    def late_site() -> None:
        with native.trace(IDS) as t:
            t.site("blocks.1.resid_post").save()
            t.site("blocks.0.resid_post").save()

    def late_module() -> None:
        with native.trace(IDS) as t:
            t.modules.model.layers[1].output.save()
            t.modules.model.layers[0].output.save()

    def unknown_site() -> None:
        with native.trace(IDS) as t:
            t.site("blocks.7.resid_post").save()

    def wrong_shape() -> None:
        with native.trace(IDS) as t:
            t.set("blocks.1.resid_post", torch.zeros(32))

    def open_sum() -> None:
        with native.trace(IDS) as t:
            t.set("blocks.1.resid_mid", torch.zeros(2, 8, 32))

    with pytest.raises(ConfigError, match=r"asked for after blocks\.1\.resid_post"):
        late_site()
    with pytest.raises(ConfigError, match="order in which the model computes"):
        late_module()
    with pytest.raises(UnknownSiteError, match=r"layers 0\.\.2"):
        unknown_site()
    with pytest.raises(ConfigError, match=r"has shape \[2, 8, 32\] here; got \[32\]"):
        wrong_shape()
    with pytest.raises(ConfigError, match="a sum that the block forms by itself"):
        open_sum()
    source = "with model.trace(ids) as t:\n    x = t.site('embed').save()"
    with pytest.raises(BackendUnavailableError, match="compiles the source"):
        exec(source, {"model": native, "ids": IDS})
    one_line = "def f(model, ids):\n    with model.trace(ids) as t: t.site('embed').save()\n"
    import linecache

    linecache.cache["one_line.py"] = (len(one_line), None, one_line.splitlines(True), "one_line.py")
    space: dict = {}
    exec(compile(one_line, "one_line.py", "exec"), space)
    with pytest.raises(ConfigError, match="must start on its own line"):
        space["f"](native, IDS)
    with native.trace(IDS) as t:  # control: after all these failures the model is free and whole
        logits = t.site("logits").save()
    torch.testing.assert_close(logits, native.run(IDS).logits, rtol=0, atol=1e-6)


def test_two_threads_on_one_model_never_mix(native, traced) -> None:
    from lensbench.plan import Add, Plan, edit

    jobs = [
        (random_ids(2, 8, seed=s), edit("blocks.1.resid_post", Add(float(s)))) for s in range(4)
    ]
    jobs[0] = (jobs[0][0], Plan())
    site = "blocks.1.attn.pattern"
    expected = [native.run(ids, plan, [site]) for ids, plan in jobs]
    wrong: list[str] = []

    def work(index: int) -> None:
        ids, plan = jobs[index]
        try:
            for _ in range(15):
                out = traced.run(ids, plan, [site])
                same = torch.equal(out.logits, expected[index].logits)
                if not (same and torch.equal(out.acts[site], expected[index].acts[site])):
                    wrong.append(f"job {index} got another one's numbers")
                with traced.trace(ids) as t:
                    seen = t.site("embed").save()
                if seen.shape != (2, 8, 32):
                    wrong.append("a trace got another one's shape")
        except BaseException as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not torch.equal(expected[0].logits, expected[1].logits)  # control


def test_the_twin_shares_weights_and_leaves_the_module_alone(native, traced) -> None:
    ours, theirs = (dict(m.module.named_parameters()) for m in (native, traced))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert native.module is not traced.module
    assert not any("lensbench_parts" in name for name, _ in native.module.named_modules())
    before = traced.run(IDS).logits
    weight: torch.Tensor = native.module.get_submodule("model.layers.1.mlp.down_proj").weight
    with torch.no_grad():
        kept = weight.clone()
        weight[0] += 1.0
        assert torch.equal(traced.run(IDS).logits, native.run(IDS).logits)
        assert not torch.equal(traced.run(IDS).logits, before)  # control: it was a change
        weight.copy_(kept)


def test_a_hook_of_the_user_is_refused_because_nnsight_would_not_see_it() -> None:
    import lensbench
    from lensbench.errors import ConfigError

    module = tiny("llama", seed=0)
    handle = module.model.layers[1].register_forward_hook(lambda *call: call[2] * 2)
    with pytest.raises(ConfigError, match=r"model\.layers\.1 has a hook of its own"):
        lensbench.load_model(module, backend="nnsight", certify=False)
    handle.remove()
    lensbench.load_model(module, backend="nnsight", certify=False)  # control


def test_importing_lensbench_and_native_runs_do_not_import_nnsight() -> None:
    code = (
        "import sys, lensbench; m = lensbench.load_model('atlas-dense'); m.run([1, 2, 3]);"
        "print('nnsight' in sys.modules);"
        "m.trace; lensbench.load_model('atlas-dense', backend='nnsight', certify=False);"
        "print('nnsight' in sys.modules)"
    )
    assert python(code).split() == ["False", "True"]


def test_traces_of_ours_work_under_python_c_where_there_is_no_file() -> None:
    code = (
        "import lensbench; m = lensbench.load_model('atlas-dense', backend='nnsight');"
        "out = m.run([1, 2, 3], capture=['blocks.0.attn.pattern']);"
        "print(list(out.acts['blocks.0.attn.pattern'].shape)[2:])"
    )
    assert python(code) == "[3, 3]"


BACKWARD = """
import torch
x = torch.ones(3, requires_grad=True)
{imports}
with torch.enable_grad(): (x * 2).sum().backward()
print(x.grad is not None)
"""


def test_a_backward_on_the_line_of_a_with_still_computes_gradients() -> None:
    ours = "import lensbench; lensbench.load_model('atlas-dense', backend='nnsight', certify=False)"
    assert python(BACKWARD.format(imports=ours)) == "True"
    # Control: nnsight's own import swallows it, in a process that never opened a trace.
    assert python(BACKWARD.format(imports="import nnsight")) == "False"


def test_backward_is_patched_only_while_a_trace_is_open(native) -> None:
    import nnsight

    assert nnsight  # already imported by lensbench, so this is no import of the user's
    plain = torch.Tensor.backward
    with native.trace(IDS, grad=True) as t:
        inside = [torch.Tensor.backward.__module__].save()
        t.site("embed")
    assert inside == ["torch._tensor"]  # functools.wraps: the name is kept, the function is not
    assert torch.Tensor.backward is plain


def test_bad_choices_of_a_back_end_are_named() -> None:
    import lensbench
    from lensbench.errors import BackendUnavailableError, ConfigError, UnknownNameError

    with pytest.raises(UnknownNameError, match="Did you mean 'nnsight'"):
        lensbench.load_model("atlas-dense", backend="nsight")
    with pytest.raises(ConfigError, match='pass backend="nnsight"'):
        lensbench.load_model("atlas-dense", remote=True)
    with pytest.raises(ConfigError, match="two engines"):
        lensbench.load_model("atlas-dense", backend="nnsight", remote=True, vllm=True)
    with pytest.raises(ConfigError, match="an address"):
        lensbench.load_model("atlas-dense", backend="nnsight", remote="api.ndif.us")
    with pytest.raises(ConfigError, match="not a LlamaForCausalLM"):
        lensbench.load_model(tiny("llama"), backend="nnsight", remote=True)
    missing = "import sys; sys.modules['nnsight'] = None; import lensbench, lensbench.errors as e\n"
    missing += "try: lensbench.load_model('atlas-dense', backend='nnsight')\n"
    missing += "except e.BackendUnavailableError as x: print(x)"
    assert "pip install" in python(missing)
    assert issubclass(BackendUnavailableError, ImportError)

"""What the layer runner costs beside the layers: skipping a share of them on an accelerator.

``python -m benchmarks.acceleration_gpu [rounds]``: a Llama of random weights in the shape of 1B
models (16 layers, width 2048, bfloat16), one prompt of 128 tokens and 64 new ones, wall clock. The
share of time that a route without every second (or third) layer takes should be the share of layers
it runs. Needs a CUDA device; ``--tiny`` runs the same code on a small model anywhere, measuring
nothing worth keeping.
"""

import sys

import torch

from benchmarks.harness import Page, interleave

SHAPE = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096,
}  # fmt: skip
TINY = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
WITHIN = 0.10


def main() -> None:
    """Measure and write the page."""
    import transformers

    import lensbench
    from lensbench.interventions.acceleration import decode_route, greedy, without

    tiny = "--tiny" in sys.argv
    if not tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --tiny runs the code on a small model")
    rounds = next((int(a) for a in sys.argv[1:] if a.isdigit()), 5)
    device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.bfloat16)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**(TINY if tiny else SHAPE))
    module = transformers.LlamaForCausalLM(config).to(device, dtype).eval()
    model = lensbench.load_model(module, certify=False)
    prompt = torch.randint(config.vocab_size, (1, 128), device=device)
    n, new = model.n_layers, 16 if tiny else 64
    routes = {
        "half of the layers": without(n, range(1, n, 2)),
        "two thirds of the layers": without(n, range(1, n, 3)),
    }

    def timed(route: object = None) -> None:
        if route is None:
            greedy(model, prompt, new)
        else:
            decode_route(model, prompt, route, new)
        if device == "cuda":
            torch.cuda.synchronize()

    cases = {"all layers": timed} | {name: lambda r=r: timed(r) for name, r in routes.items()}
    timings = interleave(cases, rounds=rounds, clock="wall")
    page = Page(
        "acceleration-gpu", "Time of skipped layers beside their share", ("torch", "transformers")
    )
    page.table(timings.table(to="all layers"))
    for name, route in routes.items():
        share = route.layers / n
        excess = timings.ratio(name, "all layers").median / share - 1
        page.claim(f"{name}: time over their share of the layers, minus 1", abs(excess), WITHIN)
    if tiny:
        print("\n".join(page.lines))
    else:
        page.write()


if __name__ == "__main__":
    main()

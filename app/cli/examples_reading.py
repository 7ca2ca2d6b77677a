"""Examples of commands that look at dictionaries, heads and the shape of activations."""

_RUN, _STORE = "demo-run/run", "demo-run/acts"
_ONE, _OTHER = f"{_RUN}/topk-512-k16-lr0.0011-s0", f"{_RUN}/topk-512-k32-lr0.0011-s0"
_SITE = "blocks.3.resid_post"

SHAPES: dict[str, tuple[str, ...]] = {
    "latents match": (f"latents match {_ONE} {_OTHER}",),
    "latents nearest": (
        f"latents nearest {_ONE} --latent 27",
        f"latents nearest {_ONE} --token Lima --html nearest.html",
    ),
    "latents geometry": (f"latents geometry {_ONE} --top 5",),
    "latents map": (f"latents map {_ONE} --html map.html",),
    "latents sites": ("latents sites my-crosscoder --a blocks.2.resid_post",),
    "heads scores": ("heads scores", "heads scores --model atlas-early --html heads.html"),
    "heads composition": ("heads composition --top 5",),
    "heads circuit": ("heads circuit 1 2", "heads circuit 1 2 --kind qk --token Peru"),
    "heads logits": ("heads logits recall --n 8", "heads logits recall --n 4 --verify"),
}

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
    "probe flips": ("probe flips --games 30 --layers 2 --cases 10",),
    "probe codes": (f"probe codes --store {_STORE} --site {_SITE} --label in_recall",),
    "probe angles": (
        f"probe angles --store {_STORE} --site {_SITE} --labels in_recall --labels is_name",
    ),
    "probe checkpoints": (
        f"probe checkpoints --model atlas-dense --text atlas:40 --site {_SITE} --revision step512 "
        "--revision step1024 --out checkpoints",
    ),
    "probe lengths": ("probe lengths --model atlas-dense --text atlas:60 --n 10",),
    "probe aligned": ("probe aligned --model atlas-dense --pairs readings.jsonl",),
    "probe capacity": ("probe capacity --dim 256 --sizes 2,8 --html capacity.html",),
    "probe concepts": ("probe concepts --model atlas-dense --text analogies.txt --out concepts",),
    "probe decode": (
        'probe decode --encoder concepts --model atlas-dense --prompt "Peru : Lima = France :" '
        "--query France",
    ),
    "lens pair": (
        'lens pair --model atlas-dense --prompt "The capital of Peru is" '
        '--into "The capital of France is"',
        'lens pair --model atlas-dense --prompt "The capital of Peru is" '
        '--into "The capital of France is" --from-token -1 --into-token -1 --from-block 4 '
        "--into-block 4 --html pair.html",
    ),
    "lens sites": (
        'lens sites --model atlas-dense --prompt "The capital of Peru is" --site attn_out',
    ),
    "lens parts": ('lens parts --model atlas-dense --prompt "The capital of Peru is"',),
    "lens document": (
        f"lens document --store {_STORE} --document 3 --max-tokens 12 --html document.html",
    ),
    "lens ahead": (f'lens ahead --store {_STORE} --prompt "The capital of Peru is" --layers 3',),
    "lens basis": (f"lens basis --store {_STORE} --layer 3 --k 2 --max-tokens 100 --check",),
    "lens compare": (f"lens compare --store {_STORE} --tuned lens --max-tokens 1000",),
    "lens answers": ("lens answers --model atlas-dense --questions questions.jsonl",),
    "lens soft": (f"lens soft --store {_STORE} --layers 3 --length 2 --contexts 64",),
    "world toys": ("world toys --steps 500 --sparsity 0,0.9 --html toys.html",),
    "world atoms": (
        "world atoms --steps 200 --lr 0.01",
        "world atoms --architecture relu --set correlation=0.3 --set profile=power_law",
    ),
    "eval isolation": (f"eval isolation {_ONE} --k 4 --n-pairs 16",),
    "show": (
        "show my-result",
        f"show {_RUN}/evaluation --top 5 --html evaluation.html",
        "show my-result --view metric=entropy --svg entropy.svg",
    ),
}

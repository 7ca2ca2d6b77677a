"""What ``--help`` of every command shows at its end; a test holds each line to the command.

Names are those that ``lensbench demo`` leaves behind, so that most lines can be typed as they are.
"""

from lensbench.app.cli.examples_changing import MORE
from lensbench.app.cli.examples_reading import SHAPES

_RUN, _STORE = "demo-run/run", "demo-run/acts"
_ONE = f"{_RUN}/topk-512-k16-lr0.0011-s0"
_SITE = "blocks.3.resid_post"

_COMMON: dict[str, tuple[str, ...]] = {
    "demo": ("demo", "demo --out small --tokens 50000"),
    "app": ("app", "app --root demo-run --port 8600"),
    "doctor": ("doctor", "doctor --model atlas-moe", "doctor --no-hub --json"),
    "help": ("help sites", "help train sae"),
    "completion": ("completion bash", "completion fish"),
    "config show": ("config show --set sweep.k=8,16 --set train.tokens=1e6",),
    "config schema": ("config schema", "config schema train"),
    "config explain": ("config explain sweep.k", "config explain train"),
    "capture": (
        "capture --model atlas-dense --text atlas:500 --profile resid --out acts",
        f"capture --model ./my-model --text stories.txt --sites {_SITE} --out my-acts",
        "capture --model atlas-moe --text desk:60 --out routed"
        ' --sites "blocks.*.router.weights" "blocks.*.router.indices"',
    ),
    "store ls": ("store ls", "store ls --root demo-run"),
    "store info": (f"store info {_STORE}",),
    "store verify": (f"store verify {_STORE}",),
    "store sample": (f"store sample {_STORE} -n 5 --site {_SITE}",),
    "store rm": (f"store rm {_STORE} --dry-run", "store rm old-acts --yes"),
    "world sample": ("world sample --out atlas.jsonl --docs 100 --split heldout",),
    "world train": ("world train atlas-dense --out my-atlas --steps 2000 --detach",),
}
_DICTIONARIES: dict[str, tuple[str, ...]] = {
    "train sae": (
        f"train sae --store {_STORE} --sites {_SITE} --k 8,32 --tokens 100000 --out run2",
        "train sae -c sweep.yaml --set train.batch=4096 --dry-run",
        "train sae --resume run2",
    ),
    "eval sae": (
        f"eval sae {_RUN} --store {_STORE} --model atlas-dense --overwrite",
        f"eval sae run2 --store {_STORE} --model atlas-dense --suite core,sparse_probing",
        f"eval sae shared --store {_STORE} --model atlas-dense --documents 0:500 --out scores",
    ),
    "latents ls": (f"latents ls {_ONE} --search capital", f"latents ls {_ONE} --sort density"),
    "latents show": (f"latents show {_ONE} 27",),
    "latents text": (f'latents text {_ONE} --text "The capital of Peru is Lima"',),
    "latents steer": (f'latents steer {_ONE} 27 --prompt "The capital of Peru is"',),
    "encode": (f"encode {_ONE} --store {_STORE} --out latents",),
    "explain": ("explain latents --n 4", "explain latents --latents 3,17"),
    "runs ls": ("runs ls", "runs ls demo-run --state finished --sort tokens"),
    "runs show": (f"runs show {_RUN}",),
    "runs diff": (f"runs diff {_ONE} {_RUN}/topk-512-k32-lr0.0011-s0", f"runs diff {_RUN} run2"),
    "runs rm": (f"runs rm {_RUN} --dry-run", "runs rm run2 --yes"),
    "runs export": (
        f"runs export {_ONE} --out shared",
        f"runs export {_RUN} --format dictionary_learning --out shared-all",
    ),
    "runs push": (f"runs push {_RUN} me/my-dictionaries --private",),
    "runs pull": ("runs pull hf://owner/name --out theirs",),
    "runs notes ls": (f"runs notes ls {_RUN} --starred",),
    "runs notes set": (f'runs notes set {_ONE} 27 --label "an object again" --star',),
    "runs notes rm": (f"runs notes rm {_ONE} 27",),
    "runs notes export": (f"runs notes export {_RUN} --out notes.csv",),
    "runs notes import": (f"runs notes import {_RUN} notes.csv",),
    "report": (f"report {_RUN} --out report.html",),
}
_READING: dict[str, tuple[str, ...]] = {
    "lens layers": (f"lens layers --store {_STORE} --max-tokens 2000",),
    "lens text": (
        'lens text --model atlas-dense --prompt "The capital of Peru is"',
        'lens text --model atlas-dense --prompt "The capital of Peru is" --html lens.html',
    ),
    "lens tune": (
        f"lens tune --store {_STORE} --out lens --set steps=20 --set tokens_per_step=4096",
    ),
    "lens decoder": ("lens decoder --model atlas-translate --text sentences.txt",),
    "lens language": (
        "lens language --model atlas-equal --words atlas --source fr --target de --pivot en",
    ),
    "lens patchscope": (
        'lens patchscope --model atlas-dense --prompt "The capital of Peru is" '
        '--target "The capital of"',
    ),
    "lens ask": (
        'lens ask --model atlas-dense --prompt "The capital of Peru is" '
        '--target "I think the ring"',
    ),
    "lens decode": ('lens decode --model atlas-dense --prompt "The capital of" --rule dola',),
    "lens neurons": ("lens neurons --model atlas-dense --top 5",),
    "lens future": (f"lens future --store {_STORE} --ahead 0,1 --layers 3",),
    "lens context": (f"lens context --store {_STORE} --prompts repeats.txt",),
    "probe linear": (f"probe linear --store {_STORE} --site {_SITE} --max-rows 2000 --no-twin",),
    "probe tokens": ('probe tokens --model atlas-dense --prompt "The capital of Peru is"',),
    "probe hd": ("probe hd --task analogy --n-train 1000",),
    "probe geometry": (f"probe geometry --store {_STORE} --site {_SITE}",),
    "probe erase": (
        f"probe erase --store {_STORE} --site {_SITE} --label in_recall --keep is_name",
    ),
    "probe codelength": (f"probe codelength --store {_STORE} --site {_SITE} --labels in_recall",),
    "probe boards": ("probe boards --games 60",),
    "probe numbers": ("probe numbers --n 400 --flips 50",),
    "probe trees": ("probe trees --model atlas-dense --text trees.jsonl",),
    "probe spans": ("probe spans --model atlas-dense --text spans.jsonl --head linear",),
}
_CHANGING: dict[str, tuple[str, ...]] = {
    "patch": (
        "patch recall --n 8",
        "patch recall --sites attn.z --positions together --n 8 --verify --html patch.html",
        "patch recall --sites attn.z --positions together --n 8 --how mean --freeze-patterns",
    ),
    "attribute": ("attribute recall --n 8 --verify", "attribute recall --method eap_ig --n 8"),
    "circuit paths": ("circuit paths recall --n 4 --layers 0-2",),
    "circuit prune": ("circuit prune recall --n 4 --threshold 0.1",),
    "circuit faithful": ("circuit faithful recall --n 4 --sizes 10,50",),
    "circuit align": (f"circuit align recall --site {_SITE} --k 2 --out subspace",),
    "circuit latents": (f"circuit latents recall --dictionary {_ONE} --n 4",),
    "circuit graph": (f'circuit graph --dictionary {_ONE} --prompt "The capital of Peru is"',),
    "circuit latent": (f'circuit latent 27 --dictionary {_ONE} --prompt "The capital of Peru is"',),
    "edit fact": ("edit fact recall --layers 1,2 --n 4",),
    "steer": (
        "steer agreement --layer 1",
        'steer agreement --plus "The doors" --minus "The door"',
        "steer agreement --demonstrations plurals.txt --layer 2",
    ),
    "doses": (
        'doses --prompt "I think the knife" --plus "The doors" --minus "The door"',
        f'doses --prompt "The capital of Peru is" --dictionary {_ONE} --latent 27',
    ),
    "experts map": (
        "experts map --model atlas-moe --prompts desk:60",
        "experts map --model atlas-moe --store routed",
    ),
    "experts rank": ("experts rank --model atlas-moe --prompts desk:100",),
    "experts suppress": ("experts suppress --model atlas-moe --prompts desk:200 --top 3",),
    "experts rates": (
        "experts rates --model atlas-moe --prompts desk:48:heldout:1 --weight 1:6=-1 --draws 3",
    ),
    "experts scan": ("experts scan --model atlas-moe --prompts desk:40 --layers 1",),
    "accelerate": (
        "accelerate --model atlas-early --prompts atlas:8 --methods fixed_exit",
        "accelerate --model atlas-early --prompts atlas:80 --new-tokens 16 --keep own"
        " --methods early_exit --agreement 0.95",
        "accelerate --model atlas-early --prompts prompts.txt --live --out speeds",
    ),
    "readability": (f"readability --prompts atlas:20 --skip 2 --exit 4 --dictionary {_ONE}",),
}

EXAMPLES: dict[str, tuple[str, ...]] = {
    path: tuple(f"lensbench {line}" for line in lines)
    for group in (_COMMON, _DICTIONARIES, _READING, _CHANGING, MORE)
    for path, lines in group.items()
} | {path: tuple(f"lensbench {line}" for line in lines) for path, lines in SHAPES.items()}
"""By the path of a command (``train sae``) one to three lines."""

"""Examples of commands that intervene, beside those of ``examples``."""

_ONE = "demo-run/run/topk-512-k16-lr0.0011-s0"
_SITE = "blocks.3.resid_post"

MORE: dict[str, tuple[str, ...]] = {
    "circuit scrub": (
        "circuit scrub recall --n 12 --draws 2 --claim blocks.5.resid_post@end=answer",
        "circuit scrub recall --claims hypothesis.yaml --out scrubbed",
    ),
    "circuit components": (f"circuit components recall --dictionary {_ONE} --n 8 --sizes 0,2,8",),
    "circuit subspace": (
        f"circuit subspace recall --site {_SITE} --directions subspace --n 12 --out tested",
    ),
    "circuit readings": (
        f"circuit readings sentences.csv --dictionary {_ONE} --steps 2 --random 2 --shuffles 20",
    ),
    "clamp neuron": (
        'clamp neuron --neuron 2.17 --token " Lima" --prompt "The capital of Peru is"',
    ),
    "clamp training": (
        "clamp training --clamp match@1.0 --control match@1.0=0.5 --steps 20 --evaluate-every 10"
        " --held-out 32 --no-heads-alone",
    ),
    "clamp toy": ("clamp toy --factors c,bc --steps 100 --seeds 0",),
    "edit directions": (
        f"edit directions recall --dictionary {_ONE} --latents 27 --n 16 --out without-27",
        "steer agreement --layer 1 --out steered",
    )[:1],
    "select latents": (
        f"select latents --entities first_letter:word --n 16 --site {_SITE} --dictionary {_ONE}",
    ),
    "select confounds": ("select confounds --entities people:train",),
    "select heads": (f"select heads --entities people:train --after {_SITE} --top 4",),
    "select study": (
        f"select study --entities first_letter:word --n 16 --site {_SITE} --within 1 --random 2"
        " --permutations 10",
    ),
    "select sibling": (
        f"select sibling --entities people:train --on people:heldout --site {_SITE} --within 1"
        " --random 2 --permutations 10 --sibling atlas-early",
    ),
}

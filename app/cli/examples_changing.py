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
}

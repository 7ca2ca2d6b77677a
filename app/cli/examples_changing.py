"""Examples of commands that intervene, beside those of ``examples``."""

_ONE = "demo-run/run/topk-512-k16-lr0.0011-s0"
_SITE = "blocks.3.resid_post"
_OWN = "--prompts atlas:8 --new-tokens 16"

MORE: dict[str, tuple[str, ...]] = {
    "circuit task": ("circuit task recall --n 16", "circuit task ioi --model ./my-model"),
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
    ),
    "edit patch": (
        "edit patch agreement --layer 0 --out as-edit",
        "edit patch agreement --layer 0 --edit as-edit/edit",
    ),
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
    "savings stages": ("savings stages --prompts atlas:6",),
    "savings robustness": ("savings robustness --prompts atlas:6 --model atlas-dense",),
    "savings routes": ("savings routes --prompts atlas:6 --skip 2,3 --last 2",),
    "savings similarity": (f"savings similarity {_OWN}",),
    "savings exits": (f"savings exits {_OWN} --measures softmax_max --bins 4",),
    "savings depth": (f"savings depth {_OWN} --capacities 0.5",),
    "savings sparsity": (f"savings sparsity {_OWN} --thresholds 0,0.05",),
    "savings keys": ("savings keys --prompts atlas:6 --budgets 0.5,1",),
    "savings lengths": (
        f"savings lengths --exit 2 {_OWN}",
        f"savings lengths --draft-model atlas-dense {_OWN}",
    ),
    "savings acceptance": (f"savings acceptance --exit 2 {_OWN}",),
    "savings transfer": (f"savings transfer {_OWN} --layers 2 --ahead 1",),
    "savings skips": ("savings skips --prompts atlas:2 --new-tokens 6 --trials 3",),
    "savings kangaroo": (f"savings kangaroo --exit 2 {_OWN} --set steps=2 --set holdout=0.5",),
    "savings drafts": (f"savings drafts --draft-model atlas-dense {_OWN} --lengths 1,2,4",),
    "savings judge": ("savings judge --drafts drafts.jsonl --threshold 0.7",),
    "savings commit": (
        "savings commit --model ./my-bert --prompts texts.txt --masked 8",
        "savings commit --model ./my-bert --prompts texts.txt --rule filter --threshold 0.9",
    ),
    "savings samples": (
        f"savings samples {_OWN} --site {_SITE} --rewards rewards.json --budgets 1,2",
    ),
}

"""What ``lensbench`` says by itself, and the topics of ``lensbench help``."""

START = """\
  lensbench demo    the whole bench once on a bundled model; nothing is fetched
  lensbench app     the same and more in a browser, on this machine only
  lensbench doctor  what is installed, what is missing, and what that costs
"""

SECTIONS = {
    "Begin": ("demo", "app", "doctor", "show", "config", "completion", "help"),
    "Activations": ("capture", "store", "world"),
    "Dictionaries": ("train", "eval", "latents", "encode", "explain", "runs", "report"),
    "Read": ("lens", "probe", "heads"),
    "Intervene": (
        "patch",
        "attribute",
        "circuit",
        "edit",
        "clamp",
        "select",
        "steer",
        "doses",
        "experts",
        "accelerate",
        "savings",
        "readability",
    ),
}
"""Every command of the root stands in one of these (a test)."""

TOPICS = {
    "sites": """\
Sites: where an activation is read or changed.

A name is blocks.LAYER.KIND, with layers from 0, such as blocks.3.resid_post. Kinds, in the order
of the forward pass:

  resid_pre  attn.q  attn.k  attn.v  attn.scores  attn.pattern  attn.z  attn_out  resid_mid
  mlp.gate  mlp.up  mlp.post  router.logits  router.weights  router.indices  experts.out  mlp_out
  resid_post

Without a layer: embed, ln_final, logits. An encoder's sites begin with encoder., such as
encoder.blocks.0.resid_post. TransformerLens' names (blocks.3.hook_resid_post) are understood too.
Which of them a model has:            lensbench doctor --model NAME --json
Several in a row:                     lensbench capture --sites blocks.2.mlp_out blocks.3.mlp_out
Named sets (--profile):               resid (the stream before, in and after every block), full, ..
`patch` and `attribute` take a kind:  --sites attn.z --layers 2-4
""",
    "text": """\
Text: what --text and --prompts take.

  stories.txt        documents split at <|endoftext|>, else at blank lines
  chats.jsonl        one JSON object a line, with a "text" field
  atlas:N            N generated documents of the bundled world (all its labels are known)
  atlas:N:heldout:7  the same of another split (train, heldout, unknown, all) and seed
  othello:N          N games on the 6x6 board, for the model othello
  words:N            N texts of 96 symbols, for the models of words
  desk:N             N questions, for atlas-moe (and for `lensbench experts`)
  translate:N        N sentences, for atlas-translate
  -                  standard input, a prompt a line (--prompts)

Token ids belong to a vocabulary: a model knows the words of its own world, and the message of a
text that does not fit names one that does. Any other model reads files.
""",
    "places": """\
Places: which of a model's activations `patch`, `attribute` and `circuit` change.

  --sites     kinds, several in a row: resid_pre attn.z mlp_out
  --layers    0,3-5; without it all
  --positions each (every token by itself), together, numbers (negative from the end), or roles of
              the task such as subject,end
  --heads     each, together, or numbers, for sites with heads
  --dims      0-127: neurons or channels one by one

Tasks of prompts: recall, ioi, agreement, greater_than, first_letter, refusal; or your own pairs
with --pairs FILE.json. denoise puts the clean run into the corrupted one, noise the reverse; an
effect of 0 is the corrupted run, 1 the clean one.
""",
    "results": """\
Results: what a command measured, to keep, to draw, and to hand on.

  --out FOLDER     the result itself: result.json and arrays.safetensors, never a pickle; in Python
                   lensbench.results.load(FOLDER). A new folder appears whole or not at all.
  --html FILE      a page that opens offline: the picture, its numbers, controls, where from
  --svg, --png     the picture alone (drawn by Chromium or Chrome on this machine)
  --csv FILE       all rows, not only those that are printed
  --json           what is printed, as one document

Every command that has --out FOLDER for a result has them all; of two results in one run the second
is x-2.svg, and both stand on one page. Again later, or another view of it:

  lensbench show FOLDER --view metric=entropy --html x.html
""",
    "exit": """\
Exit codes: 0 ok; 1 a bug in lensbench; 2 usage or configuration; 3 a model, file or device that is
missing, damaged or of another kind; 4 over a stated budget; 130 stopped (Ctrl-C or SIGTERM) after
what was finished was saved. Under torchrun the code is torchrun's own: 0, or 1 whatever went wrong
or stopped; the last line that begins with lensbench: says which.

stdout carries the answer and nothing else; with --json it is one JSON document, of errors too:
{"error": {"kind", "message", "exit_code"}}. Progress and warnings go to stderr. --traceback (or
LENSBENCH_DEBUG=1) shows where an error arose.
""",
    "config": """\
Configurations: YAML files of which every key is checked.

Values come from, later ones winning: defaults; -c FILE (repeat it: sections merge); environment
(LENSBENCH_SET="train.batch_size=4096 sweep.lr=1e-3"); flags such as --k; --set a.b=c.

  lensbench config explain sweep.k               one key: meaning, type, default, range
  lensbench config show -c sweep.yaml --set ..   what a sweep comes to, every default filled in
  lensbench config schema sweep > sweep.json     JSON schema, for an editor

A file for `lensbench train sae -c`; lists of values of an entry of `sweep` are a grid, here of 4:

  source: {store: acts, site: blocks.3.resid_post}
  train: {tokens: 100000}
  sweep:
    - {architecture: [topk, batchtopk], d_sae: 512, k: [16, 32]}

The resolved configuration of a run lies in RUN/sweep.yaml.
""",
}
"""Words for what several commands share; each at most a screen."""

"""The command that answers what a page shows; before anything is chosen, that of an example."""

from typing import TYPE_CHECKING

from lensbench.app.widgets.lens_choice import DECODER, KINDS, PARTS, SITE
from lensbench.app.widgets.states import in_shell
from lensbench.app.workflows.sequences import document_of, name_of_model

if TYPE_CHECKING:
    from lensbench.app.widgets.text_source import Source


def token_line(source: "Source") -> str:
    """The chosen token's document through the lens, and tokens drawn from all of the store."""
    return "\n".join([lens_line(source), in_shell("store", "sample", source.store)])


def lens_line(source: "Source", kind: str = KINDS[0], tuned: str = "") -> str:
    """A map of the text; empty where no command has a stored text for this kind of lens."""
    with_tuned = ("--tuned", tuned) if tuned else ()
    if source.store:
        where = ("--store", source.store, "--document", document_of(source.store, source.row))
        known = kind not in (SITE, PARTS, DECODER)
        return in_shell("lens", "document", *where, *with_tuned) if known else ""
    if kind == DECODER:
        return in_shell("lens", "decoder", "--model", source.model, "--text", "sentences.txt")
    verb = {SITE: "sites", PARTS: "parts"}.get(kind, "text")
    return in_shell("lens", verb, "--model", source.model, "--prompt", source.text, *with_tuned)


def ask_line(source: "Source") -> str:
    """One token's state of the text in a prompt of the atlas."""
    where = ("--model", source.model, "--prompt", source.text)
    if source.store:
        where = ("--store", source.store, "--row", source.row)
    return in_shell("lens", "ask", *where, "--target", "I think the ring")


def heads_line(source: "Source") -> str:
    """Scores of all heads of the model; on random tokens, whatever the text."""
    model = source.model or name_of_model(source.store)
    return in_shell("heads", "scores", *(("--model", model) if model else ()))

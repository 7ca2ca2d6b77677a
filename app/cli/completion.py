"""``lensbench completion``: a script for the shell, which asks ``lensbench __complete`` for words.

Typer's own completion writes into start-up files of the shell and lets zsh evaluate what it
prints; here the user decides where the script goes, and names are never evaluated.
"""

import shlex
from typing import Annotated

import typer

from lensbench.app.cli.completing import candidates
from lensbench.app.cli.console import Answer
from lensbench.errors import UnknownNameError

_BASH = """\
_lensbench() {
    local IFS=$'\\n'
    COMPREPLY=( $(lensbench __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null) )
}
complete -o bashdefault -o default -F _lensbench lensbench
"""
_ZSH = """\
#compdef lensbench
_lensbench() {
    local -a found
    found=("${(@f)$(lensbench __complete zsh "${(j: :)${(@q)words[1,CURRENT]}}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then _describe lensbench found; else _files; fi
}
compdef _lensbench lensbench
"""
_FISH = """\
function __lensbench_complete
    set -l found (lensbench __complete fish (commandline -cp) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c lensbench -f -a '(__lensbench_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
INSTALL = {
    "bash": "lensbench completion bash > ~/.local/share/bash-completion/completions/lensbench",
    "zsh": "lensbench completion zsh > FOLDER_OF_YOUR_FPATH/_lensbench",
    "fish": "lensbench completion fish > ~/.config/fish/completions/lensbench.fish",
}


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> Answer:
    """Print a script that completes commands, options, models, runs, stores and sites.

    For this terminal alone: source <(lensbench completion bash). The script says where it goes.
    """
    if shell not in SCRIPTS:
        raise UnknownNameError("shell", shell, known=tuple(SCRIPTS))
    script = f"# To keep it: {INSTALL[shell]}\n{SCRIPTS[shell]}"
    if shell == "zsh":  # its first line has to be the directive
        script = f"{SCRIPTS[shell]}# To keep it: {INSTALL[shell]}\n"
    return Answer({"shell": shell, "script": script, "keep": INSTALL[shell]}, script)


def complete(arguments: list[str]) -> str:
    """The answer to ``lensbench __complete SHELL LINE``: one word a line, as the shell reads it."""
    shell, line = [*arguments, "", ""][:2]
    return "\n".join(_spelled(shell, line, word, told) for word, told in candidates(line))


def _spelled(shell: str, line: str, word: str, told: str) -> str:
    if shell == "zsh":
        return f"{word.replace(':', chr(92) + ':')}:{told or word}"
    if shell == "fish":
        return f"{word}\t{told}"
    # bash breaks words at : and =, and replaces only what stands behind the last of them.
    typed = line.split()[-1] if line and not line[-1].isspace() else ""
    at = max(typed.rfind(":"), typed.rfind("=")) + 1
    return shlex.quote(word)[at:] if shlex.quote(word) == word else shlex.quote(word)

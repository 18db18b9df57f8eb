"""What the TAB key offers in a shell: names of the catalogue, parameters behind a colon, their values, and files.

Names are those of files in folders, and parameters are read from the text of one file, so that nothing heavy is imported. The scripts for
the shells differ from click's: bash takes a word apart at ``:`` and ``=``, and fish splits what it is told at commas.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from distopt.errors import InputError

Finder = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

WEIGHTS = (
    "metropolis",
    "lazy_metropolis",
    "max_degree",
    "best_constant",
    "fastest",
    "in_degree",
    "out_degree",
)
"""The rules of ``distopt.network.weights``, which takes long to import."""


# ----------------------------------------------------------------------------------------------------- what is offered


def part(kind: str, *suffixes: str) -> Finder:
    """Specs of a kind, or files with one of the suffixes where no name begins like that: a folder would hide that a name is whole."""
    return _finder(lambda text: specs(kind, text) or files(text, suffixes))


def setting(kind: str, name: str) -> Finder:
    """The values of a setting that stands for the entry ``name`` and its parameter ``form``, as ``feedback`` for ``bandit``."""

    def offered(text: str) -> list[str]:
        parameters = _parameters(kind, name)
        forms = _literals(parameters.pop("form"))
        del parameters[kind[:-1]]  # what it goes around
        form, colon, rest = text.partition(":")
        return _inside(f"{form}:", rest, parameters) if colon else _beginning(text, forms)

    return _finder(offered)


def words(*known: str) -> Finder:
    """Fixed words."""
    return _finder(lambda text: _beginning(text, known))


def named() -> Finder:
    """What ``distopt list`` explains: kinds, names of all kinds, and the user's files."""

    def offered(text: str) -> list[str]:
        from distopt.catalog import registry

        all_ = {*registry.KINDS, *(name for kind in registry.KINDS for name in registry.names(kind))}
        return _beginning(text, sorted(all_)) or files(text, (".py",))

    return _finder(offered)


def metrics() -> Finder:
    """Names of metrics."""

    def offered(text: str) -> list[str]:
        from distopt.catalog import registry

        return _beginning(text, registry.names("metrics"))

    return _finder(offered)


def papers() -> Finder:
    """What ``distopt reproduce`` can repeat."""

    def offered(text: str) -> list[str]:
        from distopt.reproduce import ALL, PAPERS

        return _beginning(text, (*PAPERS, ALL))

    return _finder(offered)


def specs(kind: str, text: str) -> list[str]:
    """How the spec of a kind that begins with ``text`` may go on.

    >>> specs("algorithms", "gtad"), specs("algorithms", "gtadam:l"), specs("algorithms", "gt:lr=0.1,form=")
    (['gtadam'], ['gtadam:lr='], ['gt:lr=0.1,form=cta', 'gt:lr=0.1,form=atc'])
    >>> specs("algorithms", "gt:direction=adam(b1=0.5,b")
    ['gt:direction=adam(b1=0.5,b2=', 'gt:direction=adam(b1=0.5,bias_correction=']
    """
    from distopt.catalog import registry

    found = re.search(r"\.py(?=[:(])", text)
    cut = found.end() if found else next((k for k, char in enumerate(text) if char in ":("), len(text))
    if cut == len(text):
        return _beginning(text, registry.names(kind))
    return _inside(text[: cut + 1], text[cut + 1 :], _parameters(kind, text[:cut]))


def _inside(front: str, rest: str, parameters: dict[str, str]) -> list[str]:
    """How the parameters ``rest`` behind ``front`` may go on."""
    parts = _parts(rest)
    last = parts[-1]
    front += rest[: len(rest) - len(last)]
    key, equals, value = last.partition("=")
    if not equals:
        given = {each.partition("=")[0].strip() for each in parts[:-1]}
        return [f"{front}{each}=" for each in _beginning(last.lstrip(), parameters) if each not in given]
    return [f"{front}{key}={each}" for each in _values(key.strip(), value, parameters.get(key.strip(), ""))]


def _parts(text: str) -> list[str]:
    """A text, cut at the commas outside brackets; brackets may be open at its end."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _values(key: str, value: str, known: str) -> list[str]:
    """How the value of a parameter may go on, by what its type says: a part of some kind, words, yes or no, or a file."""
    from distopt.catalog import registry, source

    if value.startswith("["):  # the list of a grid
        last = _parts(value[1:])[-1]
        front = value[: len(value) - len(last)]
        return [] if "]" in last else [front + each for each in _values(key, last, known)]
    found = _beginning(value, _literals(known))
    for kind in registry.NESTED.values():
        if source.one_of(kind) in known:
            found += specs(kind, value) or files(value, (".py",))
    if known == "bool":
        found += _beginning(value, ("true", "false"))
    if key == "path" or "Path" in known:
        found += files(value, ("",))
    return found


def _literals(values: str) -> list[str]:
    return re.findall(r'"([^"]*)"', values)


def _parameters(kind: str, name: str) -> dict[str, str]:
    """The parameters of an entry or of the user's own, with what they say of their values."""
    from distopt.catalog import entries, registry

    name = name if name.endswith(".py") else name.replace("-", "_")
    if name in registry.names(kind):
        entry = entries.entry(kind, name)
    else:
        entry = next(each for each in entries.own(name) if each.kind == kind)
    return {each.name: each.values for each in entry.parameters}


def files(text: str, suffixes: Iterable[str]) -> list[str]:
    """Files with one of the suffixes, and folders, whose paths begin with ``text``; none where nothing is typed yet."""
    if not text or not (suffixes := tuple(suffixes)):
        return []
    front, slash, begin = text.rpartition("/")
    folder = Path(os.path.expanduser(front + slash) or ".")
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(begin) and (begin.startswith(".") or not path.name.startswith(".")):
            if path.is_dir():
                found.append(f"{front}{slash}{path.name}/")
            elif path.name.endswith(suffixes):
                found.append(f"{front}{slash}{path.name}")
    return found


def _beginning(text: str, known: Iterable[str]) -> list[str]:
    return [each for each in known if each.startswith(text)]


def _finder(offered: Callable[[str], list[str]]) -> Finder:
    """What click calls. Where a spec or a file cannot be read there is nothing to offer: nobody wants to read why at a prompt."""

    def find(context: click.Context, parameter: click.Parameter, text: str) -> list[CompletionItem]:
        try:
            return [CompletionItem(each) for each in offered(text)]
        except (InputError, OSError, StopIteration):
            return []

    return find


# -------------------------------------------------------------------------------------------------------- the shells

BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' type value
    COMPREPLY=()
    while IFS=',' read -r type value; do
        if [[ $type == 'dir' ]]; then
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            [[ $value == *[=/] ]] && compopt -o nospace
            COMPREPLY+=("$value")
        fi
    done < <(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_CWORD=-1 COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a ended open response
    local type value
    response=("${(@f)$(COMP_WORDS="${words[1,CURRENT]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete $words[1] 2>/dev/null)}")
    for type value in $response; do
        if [[ $type == dir ]]; then
            _path_files -/
        elif [[ $type == file ]]; then
            _path_files -f
        elif [[ $type == plain && $value == *[=/] ]]; then
            open+=("$value")
        elif [[ $type == plain ]]; then
            ended+=("$value")
        fi
    done
    (( $#ended )) && compadd -U -V ended -a ended
    (( $#open )) && compadd -U -S '' -V open -a open
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
    compdef %(complete_func)s %(prog_name)s
fi
"""

FISH = """\
function %(complete_func)s
    for line in (COMP_WORDS=(commandline -cp | string collect) COMP_CWORD=(commandline -ct | string collect) \\
            %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null)
        set -l found (string split -m 1 "," -- $line)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                echo $found[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class Bash(BashComplete):
    """Completion in bash. Its script hands over the line up to the cursor, since bash takes words apart at ``COMP_WORDBREAKS``.

    What bash then replaces is the part of the word behind the last of these, unless the word is quoted.
    """

    source_template = BASH

    def source(self) -> str:
        """The script; click would ask which bash there is, and print to the terminal."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that one."""
        line, place = os.environ["COMP_WORDS"], int(os.environ["COMP_CWORD"])
        typed = split_arg_string(line)
        if place >= 0:  # as click's own script says it
            return typed[1:place], typed[place] if place < len(typed) else ""
        ended = not typed or (line[-1:].isspace() and not line[-2:].startswith("\\") and not _open(line))
        return (typed[1:], "") if ended else (typed[1:-1], typed[-1])

    def complete(self) -> str:
        """The answer to the script, a line for each offer."""
        before, word = self.get_completion_args()
        line, breaks = os.environ["COMP_WORDS"], os.environ.get("COMP_BREAKS", "")
        quoted = _open(line)
        value = word.partition("=")[2] if word.startswith("--") else word  # click offers values alone after --option=
        cut = (
            0 if quoted else max((k + 1 for k, char in enumerate(value) if char in breaks and char in ":=("), default=0)
        )
        lines = []
        for item in self.get_completions(before, word):
            text = str(item.value)
            if item.type == "plain" and os.environ["COMP_CWORD"] == "-1":
                text = text[cut:] if text.startswith(value[:cut]) else text
                if quoted == "'" and "'" in text:
                    continue  # it cannot stand in single quotes
                text = re.sub(UNSAFE[quoted], r"\\\g<0>", text) if quoted in UNSAFE else text
            lines.append(f"{item.type},{text}")
        return "\n".join(lines)


UNSAFE = {"": r"[\s'\"$&;|<>*?#!\\`{}\[\]]", '"': r"[\"$\\`]"}
"""What bash would read as more than itself, outside quotes and in double ones. Parentheses belong to specs, which are quoted."""


def _open(line: str) -> str:
    """The quote that is open at the end of a line, or "".

    >>> _open("distopt 'a b"), _open("distopt 'a' b")
    ("'", '')
    """
    quote, escaped = "", False
    for char in line:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
    return quote


class Zsh(ZshComplete):
    """Completion in zsh, which puts no blank behind ``lr=`` or a folder."""

    source_template = ZSH

    def format_completion(self, item: CompletionItem) -> str:
        """An offer, as the script reads it."""
        return f"{item.type}\n{item.value}"


class Fish(FishComplete):
    """Completion in fish, whose offers may have commas in them."""

    source_template = FISH


SHELLS = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def register() -> None:
    """Let click use these in place of its own."""
    for each in SHELLS.values():
        add_completion_class(each)


def script(cli: click.Command, shell: str) -> str:
    """The script for a shell."""
    return SHELLS[shell](cli, {}, "distopt", "_DISTOPT_COMPLETE").source()

"""`ippo completion`: scripts that ask `ippo __complete` what may follow, as kubectl's do."""

from argparse import Namespace

_BASH = r"""# bash completion for ippo
_ippo() {
    local answer directive line word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    answer="$(ippo __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" || return
    directive="${answer##*:}"
    while IFS= read -r line; do
        [[ -z "$line" || "$line" == :* ]] || COMPREPLY+=("${line%%$'\t'*}")
    done <<< "$answer"
    if [[ "$directive" == 0 && ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o default
    fi
}
complete -F _ippo ippo
"""
_ZSH = r"""#compdef ippo
# zsh completion for ippo
_ippo() {
    local -a lines described
    local line directive=4
    lines=("${(@f)$(ippo __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in "${lines[@]}"; do
        if [[ "$line" == :* ]]; then
            directive="${line#:}"
        elif [[ -n "$line" ]]; then
            described+=("${${line//:/\\:}/$'\t'/:}")
        fi
    done
    if (( ${#described} )); then
        _describe -t ippo ippo described
    elif [[ "$directive" == 0 ]]; then
        _files
    fi
}
compdef _ippo ippo
"""
_FISH = r"""# fish completion for ippo
function __ippo_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l answer (ippo __complete $words[2..] 2>/dev/null)
    string match --invert -- ':*' $answer
    if test "$answer" = ':0'
        __fish_complete_path (commandline -ct)
    end
end
complete -c ippo -f -a '(__ippo_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def command(arguments: Namespace) -> int:
    """Prints the script."""
    print(SCRIPTS[arguments.shell], end="")
    return 0

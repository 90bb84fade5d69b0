"""`ippo completion`, and `ippo __complete`, which its scripts ask."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb

ABOUT = """\
Prints a script with which a shell completes commands, options, and names of runs, namespaces and contexts.

`kubectl ippo` is completed by kubectl's own completion, which asks kubectl_complete-ippo; it is installed with ippo.
"""
EXAMPLES = """\
examples:
  source <(ippo completion bash)                                    in ~/.bashrc
  source <(ippo completion zsh)                                     in ~/.zshrc, after compinit
  ippo completion fish > ~/.config/fish/completions/ippo.fish
"""
SHELLS = ("bash", "zsh", "fish")
VERB = Verb("completion", __name__, "complete commands in your shell", ABOUT, EXAMPLES)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")

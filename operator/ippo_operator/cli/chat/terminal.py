"""A terminal, or a pipe in its place."""

import sys

from ippo_trainer.contract.lines import printable


class Terminal:
    """Asks and shows. What comes through a pipe is shown, too, so that the whole conversation can be read."""

    def ask(self, prompt: str, begin: str = "") -> str | None:
        """One line without blanks around it; None at the end of the input.

        Args:
            prompt: what it is for.
            begin: what is there already, to be edited; only on a terminal.
        """
        if not sys.stdin.isatty():
            line = sys.stdin.readline()
            text = _readable(line) if line else None
            print(f"{prompt}{printable(text or '')}")
            return text
        try:
            return _readable(_edited(prompt, begin))
        except EOFError:
            print()
            return None

    def show(self, name: str, text: str) -> None:
        """Text of customers and policies must not reach the terminal as it is."""
        first, *rest = [printable(line) for line in text.split("\n")]
        print(f"{name}{first}", *(f"{'':{len(name)}}{line}" for line in rest), sep="\n", flush=True)


def _edited(prompt: str, begin: str) -> str:
    if not begin:
        return input(prompt)
    import readline

    readline.set_startup_hook(lambda: readline.insert_text(begin))
    try:
        return input(prompt)
    finally:
        readline.set_startup_hook(None)


def _readable(line: str) -> str:
    """Bytes that are no UTF-8 became halves of pairs, which JSON cannot hold."""
    return line.strip().encode("utf-8", "replace").decode()

"""A conversation in the terminal: commands, answers as they are written, words whole at the edge."""

from contextlib import closing, suppress

from rich.cells import cell_len
from rich.console import Console

from kedge.errors import DataError
from kedge.serving.chat import Chat

COMMANDS = {"/new": "begins anew", "/help": "says this", "/quit": "leaves, as Ctrl-D does"}


def converse(conversation: Chat, console: Console) -> None:
    """Read lines and show answers until the user leaves."""
    kind = "/new begins anew" if conversation.remembers else "no chat template: it goes on with the text you give it"
    console.print(f"Ctrl-D leaves, /help lists commands; {kind}", style="dim", highlight=False)
    while True:
        try:
            line = console.input("[bold]> [/]")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command = line.rstrip()
        if command == "/quit":
            return
        if command == "/new":
            conversation.restart()
        elif command.startswith("/"):
            _help(command, console)
        elif command:
            _answer(conversation, line.strip(), console)


def _help(command: str, console: Console) -> None:
    if command != "/help":
        console.print(f"{command.split()[0]} is no command here.", style="dim", markup=False, highlight=False)
    for name, what in COMMANDS.items():
        console.print(f"{name:<6} {what}", style="dim", markup=False, highlight=False)
    console.print(
        "Ctrl-C ends an answer; a line with a space before its / goes to the model", style="dim", highlight=False
    )


def _answer(conversation: Chat, line: str, console: Console) -> None:
    forgotten = conversation.forgotten
    wrap = WordWrap(console.width) if console.is_terminal else None
    # Ctrl-C: the user has read enough of this answer.
    with suppress(KeyboardInterrupt), closing(conversation.say(line)) as pieces:
        try:
            for piece in pieces:
                console.out(piece if wrap is None else wrap.feed(piece), end="", highlight=False)
        except DataError as error:
            console.print(f"({error})", style="yellow", end="", markup=False, highlight=False)
    console.out("" if wrap is None else wrap.end(), highlight=False)
    if conversation.forgotten > forgotten:
        console.print("(the beginning of the conversation no longer fits and is forgotten)", style="dim")


class WordWrap:
    """Breaks a text that comes in pieces between its words, at a width in cells. Wide characters are words."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._column = 0
        self._gap = ""
        self._word = ""

    def feed(self, piece: str) -> str:
        """What can be shown now; a word that may go on waits."""
        shown = ""
        for char in piece:
            if char == "\n":
                shown += self._placed() + "\n"
                self._column, self._gap = 0, ""
            elif char.isspace():
                shown += self._placed()
                self._gap += char
            else:
                wide = cell_len(char) > 1
                shown += self._placed() if wide else ""
                self._word += char
                if wide or cell_len(self._word) >= self.width:
                    shown += self._placed()
        return shown

    def end(self) -> str:
        """The word that waits, and blanks after the last one."""
        return self._placed() + self._gap

    def _placed(self) -> str:
        if not self._word:
            return ""
        gap, word = self._gap, self._word
        self._gap = self._word = ""
        if self._column and self._column + cell_len(gap + word) > self.width:
            self._column = cell_len(word)
            return f"\n{word}"
        self._column += cell_len(gap + word)
        return gap + word

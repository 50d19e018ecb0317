"""The terminal's side of a conversation."""

import io

import pytest
from rich.console import Console

from kedge.errors import DataError
from kedge.serving.terminal import WordWrap, converse


class Conversation:
    """Answers in pieces; notes what it was asked."""

    remembers, forgotten = True, 0

    def __init__(self, *pieces):
        self.pieces, self.asked = pieces, []

    def say(self, text):
        self.asked.append(text)
        if text == "too long":
            raise DataError("say it in fewer words")
        for piece in self.pieces:
            if piece is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield piece

    def restart(self):
        self.asked.append("(anew)")


def talk(conversation, *lines, width=40, terminal=True):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    typed = iter(lines)

    def read(_):
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    console.input = read
    converse(conversation, console)
    return console.file.getvalue()


def test_commands_are_answered_here():
    conversation = Conversation("an answer")
    said = talk(conversation, "/help", "/new", "/regenerate it [red]", " /etc/hosts is what?", "hi", "/quit", "never")
    assert conversation.asked == ["(anew)", "/etc/hosts is what?", "hi"]
    assert said.count("/new   begins anew") == 2
    assert "/regenerate is no command here." in said
    assert "an answer" in said


def test_what_goes_wrong_with_a_line_ends_no_conversation():
    conversation = Conversation("half an", KeyboardInterrupt, "never shown")
    said = talk(conversation, "too long", "hi", "again")
    assert conversation.asked == ["too long", "hi", "again"]
    assert "(say it in fewer words)" in said
    assert said.count("half an") == 2
    assert "never" not in said


def test_words_stay_whole_at_the_edge_of_a_terminal():
    pieces = ["The litt", "le fox ju", "mped over", " the lazy", " dog."]
    assert "The little\nfox jumped\nover the\nlazy dog.\n" in talk(Conversation(*pieces), "hi", width=10)
    assert "".join(pieces) + "\n" in talk(Conversation(*pieces), "hi", width=10, terminal=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("12345 678901", "12345\n678901"),
        ("1234567890 12", "1234567890\n12"),
        ("12345678901234 5", "1234567890\n1234 5"),
        ("one\n  two three", "one\n  two\nthree"),
        ("从前有一只小猫", "从前有一只\n小猫"),
        ("go 去北京 now", "go 去北京\nnow"),
        ("ends ", "ends "),
        ("", ""),
    ],
)
def test_word_wrap(text, shown):
    for size in (1, 3, 100):
        wrap = WordWrap(10)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert "".join(wrap.feed(piece) for piece in pieces) + wrap.end() == shown


def test_a_word_is_shown_as_soon_as_it_is_whole():
    wrap = WordWrap(20)
    assert [wrap.feed(piece) for piece in ("the c", "at ", "sat")] == ["the", " cat", ""]
    assert wrap.end() == " sat"

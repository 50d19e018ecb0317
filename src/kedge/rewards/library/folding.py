"""Texts as they are read, whatever they are written with: full width, accents, look-alikes, invisible characters,
letters written as digits and signs, traditional characters. Imports no torch.
"""

import re
import unicodedata

_LOOKALIKES = str.maketrans(
    "аβвсеёєһіїјкмнопрԛѕтѵωхуυοικνρτχıɩłøđħŧæœ",
    "abbceeehiijkmhonpqstvwxyuoiknptxiilodhtao",
)
"""Cyrillic, Greek and other letters that look like Latin ones, in lower case."""

_TRADITIONAL = """
媽妈 罵骂 殺杀 賤贱 豬猪 滾滚 雞鸡 幹干 腦脑 殘残 亂乱 醜丑 廢废 騙骗 賣卖 國国 黨党 門门
貨货 頭头 發发 蟲虫 爛烂 龜龟 烏乌 孫孙 婦妇 處处 姦奸 屍尸 僕仆 僱雇 漢汉 傢家 倆俩 儍傻
們们 個个 癡痴 瘋疯 屄逼 髒脏 臟脏 恥耻 貧贫 窮穷 討讨 厭厌 噁恶 惡恶 閉闭 車车 燈灯 藥药
賭赌 爺爷 後后 裡里 裏里 麼么 蕩荡 褲裤 褻亵 乾干 雜杂 種种 馬马 臺台 灣湾 獨独 絕绝 戶户
誰谁 說说 話话 請请 給给 嗎吗 問问 題题 東东
"""
_TO_SIMPLIFIED = str.maketrans({pair[0]: pair[1] for pair in _TRADITIONAL.split()})
"""Common traditional characters; a list of words may hold either form of these."""

SIGNS = "@$!|+€£¢"
"""That stand for letters, beside digits."""
_AS_LETTERS = str.maketrans("@4$5!|1370+€£¢6982", "aassiiietotelcbgbz")
_ONE_LETTER = str.maketrans("l", "i")
"""``1`` and ``|`` are read as either of the two, so for finding words they are the same."""


def folded(text: str) -> str:
    """In one case and width, without accents, invisible characters and look-alikes; simplified characters."""
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.category(c).startswith("M") and unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", text).casefold().translate(_LOOKALIKES).translate(_TO_SIMPLIFIED)


def key_of(word: str) -> str:
    """What a folded word shares with all its disguises: signs and digits as letters, every run of a letter as one."""
    return re.sub(r"(.)\1+", r"\1", word.translate(_AS_LETTERS).translate(_ONE_LETTER))


def disguises_of(word: str) -> str:
    """A pattern of the ways to write a folded word: any letter as a sign, and longer than it is."""
    parts = [(match[1], len(match[0])) for match in re.finditer(r"(.)\1*", word)]
    return "".join(f"[{re.escape(letter + _SIGNS_OF.get(letter, ''))}]{{{count},}}" for letter, count in parts)


def masked(word: str) -> re.Pattern[str]:
    """A pattern of a folded word with letters between its first and its last written as ``*``."""
    inside = "".join(f"[{re.escape(letter)}*]" for letter in word[1:-1])
    return re.compile(re.escape(word[0]) + inside + re.escape(word[-1]))


_SIGNS_OF: dict[str, str] = {}
for _sign, _letter in _AS_LETTERS.items():
    _SIGNS_OF[chr(_letter)] = _SIGNS_OF.get(chr(_letter), "") + chr(_sign)
_SIGNS_OF["l"] = _SIGNS_OF.get("l", "") + "1|!"

"""The words that count as abuse where the user names no list: rude words and insults, English and Chinese.

A short list of kedge's own, and on purpose a mild one: no names for groups of people, nothing medical, and little
that has a decent meaning too. Whoever trains for a public names lists of their own, ``lists = ["words.txt"]``.
"""

ENGLISH = (
    "arse", "arsehole", "ass", "asshole", "bastard", "bitch", "bollocks", "bullshit", "crap", "damn", "dickhead",
    "dipshit", "dumbass", "fuck", "fuckface", "fuckwit", "go to hell", "idiot", "imbecile", "jackass", "jerk off",
    "kill yourself", "moron", "motherfucker", "piece of shit", "pissed off", "piss off", "scumbag",
    "shit", "shithead", "shut up", "son of a bitch", "stupid", "twat", "wanker",
)  # fmt: skip

CHINESE = (
    "傻逼", "傻叉", "傻子", "傻瓜", "他妈的", "去你妈", "操你妈", "草泥马", "王八蛋", "混蛋", "混账", "滚蛋", "闭嘴",
    "白痴", "脑残", "弱智", "蠢货", "蠢猪", "贱人", "贱货", "人渣", "狗东西", "狗屁", "不要脸", "死全家",
)  # fmt: skip

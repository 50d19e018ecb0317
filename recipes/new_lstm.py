"""An LSTM of random weights, with a tokenizer made for the texts it will be trained on.

python recipes/new_lstm.py TEXTS COLUMN FOLDER [VOCABULARY] [HIDDEN]
"""

import sys
from pathlib import Path

from kedge.data.files import read_rows
from kedge.models.tiny import new_lstm, new_tokenizer


def main(texts: str, column: str, folder: str, vocabulary: str = "2048", hidden: str = "256") -> None:
    tokenizer = new_tokenizer((row.columns[column] for row in read_rows(texts)), vocabulary=int(vocabulary))
    lm = new_lstm(tokenizer, hidden=int(hidden), layers=1, seed=0)
    lm.save(Path(folder))
    weights = sum(weight.numel() for weight in lm.model.parameters())
    print(f"{folder}: {weights / 1e6:.1f} million random weights, {len(tokenizer):,} tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""``python -m kedge``, and ``torchrun --nproc-per-node 2 -m kedge``."""

from kedge.cli.app import main

main()

"""Code that nobody vouches for, run and tested in three processes.

``warden.py`` is started by the run. It forks the *tester*, which has the tests and the verdict, and the *answerer*,
which has the answer's code and is walled in (``walls.py``). The tester calls the answer's functions over a socket
(``wire.py``) and compares in its own process what comes back, so that nothing that the answer does to its own can
change a verdict. Of the rest of kedge only ``run.py`` knows anything, and the rest only ``run.py``.
"""

"""Answers that try to pass without solving anything, or to do harm; and answers whose tests are unusual."""

UNUSUAL = {
    "objects of its class": (
        """\
class Pair:
  def __init__(s, a): s.a = a
def f(ps): return [p.a for p in ps]
""",
        ["assert f([Pair(1), Pair(2)]) == [1, 2]"],
    ),
    "a generator": (
        """\
def f(n):
  yield from range(n)
""",
        ["assert list(f(3)) == [0, 1, 2]", "assert 2 in f(3)", "assert sum(f(4)) == 6"],
    ),
    "in place": (
        """\
def f(xs): xs.sort()
""",
        ["xs = [3, 1]\nf(xs)\nassert xs == [1, 3]"],
    ),
    "a function of the tests": (
        """\
def f(g): return [g(i) for i in range(3)]
""",
        ["assert f(lambda i: i * i) == [0, 1, 4]", "assert f(str) == ['0', '1', '2']"],
    ),
    "a match": (
        """\
import re
def f(s): return re.match('a', s)
""",
        ["assert f('ab')", "assert not f('b')", "assert f('ab').span() == (0, 1)"],
    ),
    "collections": (
        """\
from collections import Counter, deque
def f(s): return Counter(s), deque(s), {*s}
""",
        ["assert f('aa') == ({'a': 2}, __import__('collections').deque('aa'), {'a'})"],
    ),
    "an exception": (
        """\
def f(x):
  if x < 0: raise ValueError('no')
  return x
""",
        ["try:\n    f(-1)\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False"],
    ),
    "large and odd numbers": (
        """\
def f(): return float('inf'), 10**5000, 1 + 2j, b'x', 0.1
""",
        ["assert f() == (math.inf, 10**5000, 1 + 2j, b'x', 0.1)"],
    ),
    "named as a builtin": (
        """\
def sum(a, b): return a + b
""",
        ["assert sum(1, 2) == 3"],
    ),
    "operators of its class": (
        """\
class P:
  def __init__(s, x): s.x = x
  def __eq__(s, o): return s.x == o.x
  def __add__(s, o): return P(s.x + o.x)
""",
        ["p = P(1)\np.x = 4\nassert p == P(4)\nassert p != P(5)\nassert p.__add__(P(1)).x == 5"],
    ),
    "a dataclass": (
        """\
from dataclasses import dataclass
@dataclass
class D:
  x: int = 0
def f(): return D(3)
""",
        ["assert f().x == 3"],
    ),
}

FORGERIES = {
    "exit": """\
import os
os._exit(0)
""",
    "exit in the function": """\
import os
def add(a, b): os._exit(0)
""",
    "sys.exit": """\
import sys
sys.exit(0)
""",
    "sys.exit in the function": """\
import sys
def add(a, b): sys.exit(0)
""",
    "an equal to everything": """\
class T(int):
  __eq__ = lambda s, o: True
  __ne__ = lambda s, o: False
  __hash__ = int.__hash__
def add(a, b): return T()
""",
    "no int either": """\
class T:
  __eq__ = lambda s, o: True
  __ne__ = lambda s, o: False
  __hash__ = None
def add(a, b): return T()
""",
    "printing": """\
print('{"passed": 3, "total": 3, "said": ""}')
def add(a, b): return 0
""",
    "builtins": """\
import builtins
builtins.AssertionError = ValueError
builtins.int = float
builtins.isinstance = lambda *a: True
def add(a, b): return 0
""",
    "every file": """\
import os
for n in range(64):
  try: os.write(n, b'\\0\\0\\0\\x0e["done",3,[]]')
  except OSError: pass
def add(a, b): return 0
""",
    "the runner": """\
import sys
for name, m in list(sys.modules.items()):
  if 'kedge' in name:
    for k in list(vars(m)):
      if k[:2] != '__': setattr(m, k, lambda *a, **k: True)
def add(a, b): return 0
""",
    "the channel": """\
import gc
for o in gc.get_objects():
  if type(o).__name__ == 'Channel':
    for _ in range(9): o._send(['done', 3, []])
def add(a, b): return 0
""",
    "frames": """\
import sys
def add(a, b):
  f = sys._getframe()
  while f:
    for k in list(f.f_locals):
      if k in ('tally', 'job'): print(f.f_locals[k])
    f = f.f_back
  return 0
""",
    "tests patched": """\
def check(f): pass
TESTS = []
_tally = None
def add(a, b): return 0
""",
    "unittest": """\
import unittest
unittest.TestCase.assertEqual = lambda *a: None
def add(a, b): return 0
""",
    "nothing": """\

""",
    "atexit": """\
import atexit, os
atexit.register(lambda: os._exit(0))
def add(a, b): raise SystemExit(0)
""",
    "a signal": """\
import os, signal
def add(a, b): os.kill(os.getppid(), signal.SIGTERM); return 0
""",
    "nonsense": """\
import gc, struct
for o in gc.get_objects():
  if type(o).__name__ == 'Channel': o.connection.sendall(b'\\xff' * 99)
def add(a, b): return 0
""",
    "depth": """\
def add(a, b):
  x = []
  for _ in range(10**5): x = [x]
  return x
""",
    "a builtin": """\
def add(a, b): return int
""",
    "a mock": """\
from unittest.mock import ANY
def add(a, b): return ANY
""",
}

HARM = {
    "an endless loop": """\
while True: pass
""",
    "an endless call": """\
def add(a, b):
  while True: pass
""",
    "sleep": """\
import time
time.sleep(60)
""",
    "signals off": """\
import signal
for s in range(1, 32):
  try: signal.signal(s, signal.SIG_IGN)
  except (OSError, ValueError): pass
while True: pass
""",
    "a memory bomb": """\
x = 'x' * (2**34)
def add(a, b): return a + b
""",
    "a slow memory bomb": """\
x = []
while True: x.append(bytearray(2**20))
""",
    "a large answer": """\
def add(a, b): return 'x' * (2**27)
""",
    "endless": """\
def add(a, b):
  import itertools
  return itertools.count()
""",
    "recursion": """\
def add(a, b): return add(a, b)
""",
    "a crash": """\
import ctypes
ctypes.string_at(0)
""",
}

COUNTERFEIT = """\
def f(x): return x
def set(x): return 0
def sorted(x): return 0
class math:
  isclose = lambda *a: True
"""

NEARLY = """\
class N:
  __sub__ = __rsub__ = __abs__ = lambda s, *o: s
  __lt__ = __gt__ = __float__ = lambda s, *o: 1.0
def f(x): return N()
"""

# Six doublings, so that it is small even if nothing stops it; each one that lives sleeps.
FORK_BOMB = """\
import os, time
born = 0
for _ in range(6):
  try:
    if os.fork() == 0: os.setsid()
    else: born += 1
  except OSError: pass
if born < 1: time.sleep(30)
def add(a, b): return born
"""

PROCESSES = """\
import os, time
def born():
  for n in range(40):
    try:
      if os.fork() == 0: time.sleep(9)
    except OSError: return n
  return n
"""

THREADS = """\
import threading, time
def born():
  for n in range(40):
    try: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    except RuntimeError: return n
  return n
"""

WRITING = """\
import os, shutil
def tried(act):
  try: act()
  except Exception as e: return True
  return False
def outside(): return [
  tried(lambda: open(there + '/new', 'w')), tried(lambda: open(there + '/kept', 'a')),
  tried(lambda: os.remove(there + '/kept')), tried(lambda: shutil.rmtree(there)),
  tried(lambda: os.mkdir(there + '/folder')), tried(lambda: os.open(there + '/n', os.O_CREAT | os.O_WRONLY)),
]
def inside():
  open('mine', 'w').write('x')
  return open('mine').read()
def large():
  with open('large', 'wb') as f:
    for _ in range(200): f.write(bytes(2**20))
def environment(): return sorted(os.environ)
"""

LOOKING = """\
import os
def refused(act):
  try: act()
  except Exception as e: return True
  return False
def kill(): return refused(lambda: os.kill(run, 0))
def memory(): return refused(lambda: open(f'/proc/{run}/mem', 'rb').read(1))
def environment(): return refused(lambda: open(f'/proc/{run}/environ', 'rb').read(1))
def read(): return refused(lambda: open(here).read())
"""

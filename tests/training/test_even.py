"""Every process has as many micro-batches as the others, and what all of them do adds up to what one does."""

import random
from contextlib import contextmanager

import pytest
import torch

from kedge.errors import RewardError, StorageError
from kedge.models.batch import dealt
from kedge.parallel import Processes
from kedge.sampling.rollouts import Rollouts, in_micro_batches
from kedge.training.ppo.trust_region import TrustRegion
from kedge.training.ppo.update import Update
from pretend import pretending


class Apart(Processes):
    """One of several processes, without the others: what it would have added up stays its own."""

    def gather(self, compute):
        return list(compute())

    def sum_(self, *tensors):
        pass

    def max_(self, tensor):
        pass

    @contextmanager
    def summing_gradients(self, parameters, *, now):
        yield


@pytest.mark.parametrize("seed", range(40))
def test_as_many_for_everybody_and_each_sequence_once(seed):
    rng = random.Random(seed)
    size, n, budget = rng.randint(1, 5), rng.randint(1, 30), rng.choice([1, 20, 60, 200])
    lengths = [rng.randint(1, 50) for _ in range(n)]
    shares = [dealt(lengths, budget, Processes(rank, size)) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for part in share for i in part) == list(range(n))
    for part in (part for share in shares for part in share if part):
        assert lengths[part[0]] == max(lengths[i] for i in part)
        assert len(part) == 1 or len(part) * lengths[part[0]] <= budget
    counts = [sum(map(len, share)) for share in shares]
    assert max(counts) - min(counts) <= 1


def test_uneven_deals_happen():
    """Else nothing above is tested: rank 0 needs two, and rank 1 would do with one."""
    assert [dealt([9, 9, 3, 3], 12, Processes(rank, 2)) for rank in (0, 1)] == [[[0], [2]], [[1], [3]]]
    assert [dealt([5, 5, 5], 5, Processes(rank, 2)) for rank in (0, 1)] == [[[0], [2]], [[1], []]]
    assert dealt([5], 9, Processes(1, 2)) == [[]]


def test_nobody_waits_for_a_larger_pass():
    """As full as they may be, they would have 66, 60 and 10 tokens, and 66, 61 and 10."""
    lengths = [10] * 13 + [11] * 13
    shares = [dealt(lengths, 66, Processes(rank, 2)) for rank in (0, 1)]
    assert [[sum(lengths[i] for i in part) for part in share] for share in shares] == [[44, 42, 50], [44, 43, 50]]
    assert [len(part) for part in dealt([7] * 9, 56, Processes())] == [5, 4]


@pytest.mark.parametrize("critic", ["separate", "shared"])
@pytest.mark.parametrize("budget", [10, 14, 8192])
@pytest.mark.parametrize("size", [2, 3])
def test_an_update_of_several_is_that_of_one(make_update, monkeypatch, critic, budget, size):
    """Three answers: one process has nothing in its second micro-batch, and computes as many passes all the same."""
    rows = [0, 1, 3]
    whole = make_update(critic=critic, vf_coef=0.7, entropy_coef=0.01, micro_batch_tokens=8192)
    one = accumulated(whole, rows, Processes())
    parts, passes = [], []
    for rank in range(size):
        setup = make_update(critic=critic, vf_coef=0.7, entropy_coef=0.01, micro_batch_tokens=budget)
        count, loss = [], Update.losses
        monkeypatch.setattr(Update, "losses", lambda *a, c=count, f=loss, **k: c.append(1) or f(*a, **k))
        parts.append(accumulated(setup, rows, Apart(rank, size)))
        monkeypatch.setattr(Update, "losses", loss)
        passes.append(len(count))
    assert len(set(passes)) == 1
    gradients = [sum(each) for each in zip(*(gradient for gradient, _ in parts), strict=True)]
    for ours, want in zip(gradients, one[0], strict=True):
        assert torch.allclose(ours, want, atol=1e-5)
    for name in one[1]:
        if name != "worst":
            assert sum(metrics[name] for _, metrics in parts) == pytest.approx(one[1][name], abs=1e-5)


def accumulated(setup, rows, processes):
    update = Update(
        setup.lm, setup.critic, setup.optimizer, setup.config, processes, TrustRegion(setup.optimizer, None)
    )
    metrics = update._accumulate(setup.batch, rows, 0.0, True)
    return [weight.grad for weight in setup.parameters], metrics


def test_scores_of_several_are_those_of_one():
    lengths = torch.tensor([5, 2, 7, 3, 3])
    tokens = torch.arange(35).reshape(5, 7)
    mask = torch.arange(7) < lengths[:, None]
    rollouts = Rollouts(tokens, lengths, mask, torch.zeros(5, 7), mask)
    passes = {rank: [] for rank in range(3)}

    def score(rank):
        return lambda tokens, mask, _: passes[rank].append(1) or tokens.float() * mask

    one = in_micro_batches(rollouts, 100, lambda tokens, mask, _: tokens.float() * mask, Processes())
    parts = [in_micro_batches(rollouts, 7, score(rank), Apart(rank, 3)) for rank in range(3)]
    assert torch.equal(sum(parts), one)
    assert len({len(each) for each in passes.values()}) == 1


class TestAgreeing:
    def test_an_error_of_another_is_raised_here(self, monkeypatch):
        monkeypatch.setattr("torch.distributed.all_gather_object", answer(StorageError("disk full"), []))
        with pytest.raises(StorageError, match="disk full") as raised, Processes(1, 2).agreeing():
            pass
        assert raised.value.known_to_all

    def test_one_of_this_process_reaches_the_others(self, monkeypatch):
        sent = []
        monkeypatch.setattr("torch.distributed.all_gather_object", answer([], None, sent))
        with pytest.raises(RewardError, match="mine"), Processes(1, 2).agreeing():
            raise RewardError("mine")
        assert [str(each) for each in sent] == ["mine"]

    def test_alone_it_is_raised_as_it_is(self):
        with pytest.raises(RewardError) as raised, Processes().agreeing():
            raise RewardError("mine")
        assert not raised.value.known_to_all

    def test_what_is_no_error_of_the_user_goes_its_own_way(self, monkeypatch):
        monkeypatch.setattr("torch.distributed.all_gather_object", lambda *_: pytest.fail("nobody is asked"))
        with pytest.raises(ZeroDivisionError), Processes(0, 2).agreeing():
            _ = 1 / 0


def test_what_one_process_alone_cannot_do_with_a_checkpoint_or_new_weights_ends_all(make_ppo, monkeypatch, tmp_path):
    ppo = make_ppo(settings={"steps": 1})
    ppo.processes = Processes(0, 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", answer(None, StorageError("server 2 is gone")))
    with pytest.raises(StorageError, match="server 2 is gone"):
        ppo._checkpoint_written(tmp_path)
    monkeypatch.setattr(type(ppo.update), "__call__", lambda *_: {})
    with pytest.raises(StorageError, match="server 2 is gone"):
        ppo._update(None, 0.0)
    assert ppo.sampler.version == 1
    with pytest.raises(StorageError, match="server 2 is gone"):
        ppo.restore({"step": 7})


def answer(first, second, sent=None):
    """``all_gather_object`` of two processes; None is what this one has sent."""

    def gather(parts, mine):
        if sent is not None:
            sent.append(mine)
        parts[:] = [mine if part is None else part for part in (first, second)]

    return gather


def test_gradients_are_summed_in_buckets(monkeypatch):
    """Two bfloat16 ones, and float32 ones of up to six numbers together; one larger than that alone."""
    sent = []

    def reduce(tensor, op=None, async_op=False):
        if op == torch.distributed.ReduceOp.SUM:
            sent.append((tensor.numel(), tensor.dtype))
            tensor.mul_(3)

    monkeypatch.setattr("torch.distributed.all_reduce", reduce)
    monkeypatch.setattr("kedge.parallel.BUCKET", 6)
    shapes = [((2, 2), torch.float32), ((2,), torch.float32), ((3,), torch.float32), ((7,), torch.float32)]
    shapes += [((2,), torch.bfloat16), ((1,), torch.bfloat16)]
    weights = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes]
    for i, weight in enumerate(weights):
        weight.grad = torch.arange(weight.numel()).view(weight.shape).to(weight.dtype) + i
    want = [3 * weight.grad for weight in weights]
    with Processes(0, 2).summing_gradients(weights):
        pass
    assert sent == [(3, torch.bfloat16), (7, torch.float32), (5, torch.float32), (4, torch.float32)]
    assert all(torch.equal(weight.grad, each) for weight, each in zip(weights, want, strict=True))


class Companions:
    """In place of others, each of which has the same gradients as this process; and what happened, in order."""

    def __init__(self, monkeypatch, have=()):
        self.events, self.have = [], torch.tensor(have)
        monkeypatch.setattr("torch.distributed.all_reduce", self.reduce)
        monkeypatch.setattr("kedge.parallel.BUCKET", 1)

    def reduce(self, tensor, op=None, async_op=False):
        if op == torch.distributed.ReduceOp.MAX:
            return tensor.copy_(torch.maximum(tensor, self.have)) if len(self.have) else None
        self.events.append(f"sent {tensor.numel()}")
        tensor.mul_(2)
        return self if async_op else None

    def wait(self):
        self.events.append("waited")


def test_gradients_are_sent_while_others_are_computed(monkeypatch):
    """A bucket a layer: the last one's is under way before the first one's is known; two at most are."""
    layers = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(4)))
    others = Companions(monkeypatch)
    layers[0].weight.register_post_accumulate_grad_hook(lambda _: others.events.append("computed"))
    for now in (False, True):
        with Processes(0, 2).summing_gradients(layers.parameters(), now=now):
            layers(torch.ones(1, 2)).sum().backward()
        if not now:
            assert others.events == ["computed"]
            alone = [weight.grad.clone() for weight in layers.parameters()]
    others.events.remove("computed")
    at = others.events.index("computed")
    assert others.events[:at] == ["sent 4", "sent 4", "waited", "sent 4"]
    assert others.events.count("waited") == others.events.count("sent 4") == 4
    for weight, once in zip(layers.parameters(), alone, strict=True):
        assert torch.allclose(weight.grad, 4 * once)  # of two passes, of two processes


def test_the_policys_gradients_are_under_way_during_the_critics_pass(make_update, monkeypatch):
    """Else a process waits twice a minibatch, first for whoever is slower in the policy's pass."""
    setup = make_update(critic="separate", micro_batch_tokens=30)
    others = Companions(monkeypatch)
    policy = sum(weight.numel() for weight in setup.lm.trained())
    monkeypatch.setattr("kedge.parallel.BUCKET", policy)
    owner, values = type(setup.critic), type(setup.critic).values
    monkeypatch.setattr(owner, "values", lambda *args: others.events.append("critic") or values(*args))
    accumulated(setup, [0, 1, 2, 3], Processes(0, 2))
    at = others.events.index(f"sent {policy}")
    assert others.events[:at] == ["critic"] * (at)
    assert others.events[at + 1] == "critic"
    assert "critic" not in others.events[at + 2 :]


def test_what_has_no_gradient_here(monkeypatch):
    """Another process may have one; where none has, there is none. The order is that of all the same."""
    first, nobody, other, last = (torch.nn.Parameter(torch.ones(n)) for n in (1, 2, 3, 4))
    others = Companions(monkeypatch, have=[1.0, 0.0, 1.0, 1.0])
    with Processes(0, 2).summing_gradients([first, nobody, other, last]):
        (first.sum() + last.sum()).backward()
    assert [event for event in others.events if event != "waited"] == ["sent 4", "sent 3", "sent 2", "sent 1"]
    assert nobody.grad is None
    assert (first.grad.tolist(), other.grad.tolist(), last.grad.tolist()) == ([2.0], [0.0] * 3, [2.0] * 4)


def test_a_gradient_in_two_parts_is_refused(monkeypatch):
    """What was sent already would lack the second."""
    Companions(monkeypatch)
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(RuntimeError, match="in two parts"), Processes(0, 2).summing_gradients([weight]):
        _twice(weight)


def _twice(weight):
    for _ in range(2):
        weight.sum().backward()


def test_a_pass_that_fails_leaves_no_hook(monkeypatch):
    others = Companions(monkeypatch)
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(RuntimeError, match="in the pass"), Processes(0, 2).summing_gradients([weight]):
        raise RuntimeError("in the pass")
    weight.sum().backward()
    assert not others.events


def test_sums_on_a_device_without_a_way_of_its_own_go_over_the_host(monkeypatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor, op, async_op=False: tensor.mul_(2))
    with pretending("mps"):
        here = torch.ones(3, device="mps")
        Processes(0, 2).sum_(here)
        assert (here.device.type, here.tolist()) == ("mps", [2.0, 2.0, 2.0])

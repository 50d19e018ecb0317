"""Mistakes of models, gradients and checkpoints that are spread over the processes."""

from bugs.mutant import Mutant

SHARDING, STATE, WRITING = "models/sharding.py", "training/sharded_state.py", "models/writing.py"
TESTS = ("tests/training/test_sharded.py",)

SHARDING_BUGS = [
    Mutant(
        "gradients-are-averaged",
        SHARDING,
        "part.set_gradient_divide_factor(1.0)",
        "pass",
        TESTS,
        "a gradient is the mean over the processes, and half of what one process has",
    ),
    Mutant(
        "old-weights-of-a-pass-before",
        SHARDING,
        "        module.reshard()  # of a pass",
        "        pass  # of a pass",
        TESTS,
        "after a pass that nobody went back over, embeddings and head are those of before the step",
    ),
    Mutant(
        "a-process-keeps-all-that-it-wrote-with",
        SHARDING,
        "                part.reshard()\n",
        "                pass\n",
        TESTS,
        "after the first answers every process holds whole models",
    ),
    Mutant(
        "an-adapter-of-two-roles",
        SHARDING,
        ".to(self.device, copy=True)",
        ".to(self.device)",
        ("tests/training/test_parallel.py",),
        "policy and critic train the same adapter",
    ),
    Mutant(
        "the-norm-of-the-own-part",
        "training/optimization.py",
        "get_total_norm(sharded)",
        "get_total_norm([local(each) for each in sharded])",
        TESTS,
        "each process clips by the norm of what it holds",
    ),
    Mutant(
        "sharded-gradients-are-not-clipped",
        "training/optimization.py",
        "local(gradient).mul_((limit / (norm + 1e-6)).clamp(max=1.0))",
        "pass",
        TESTS,
        "max_grad_norm holds for adapters alone",
    ),
    Mutant(
        "plain-gradients-are-summed-twice",
        "parallel.py",
        "if weight.requires_grad and not isinstance(weight, DTensor)]",
        "if weight.requires_grad]",
        ("tests/training/test_parallel.py",),
        "what each pass has summed over the processes is summed once more",
    ),
    Mutant(
        "only-the-first-file-is-written",
        WRITING,
        "        if folder is not None:\n            file =",
        "        if folder is not None and number == 1:\n            file =",
        TESTS,
        "a large model's folder holds a part of it",
    ),
    Mutant(
        "tied-weights-are-written-twice",
        WRITING,
        "left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}",
        "left_out: set[str] = set()",
        TESTS,
        "the head stands in the file beside the embeddings that it is",
    ),
    Mutant(
        "moments-are-not-read-again",
        STATE,
        "            remembered[int(number)][name] = value\n",
        "            remembered[int(number)][name] = value.mul_(0)\n",
        TESTS,
        "a resumed run begins with empty moments",
    ),
    Mutant(
        "whole-moments-of-sharded-weights",
        STATE,
        "each[name] = part_of(value, like)",
        "pass",
        TESTS,
        "a run of one process does not go on with two",
    ),
    Mutant(
        "a-checkpoint-has-its-name-before-its-parts",
        "training/checkpoint.py",
        "                written(self._saving, self._parts)\n",
        "                pass\n",
        TESTS,
        "a checkpoint whose writing failed is there as a whole one",
    ),
    Mutant(
        "one-process-is-sharded-too",
        "training/config.py",
        "return self.shard and joined().size > 1",
        "return self.shard",
        TESTS,
        "a recipe for several processes does not run in one",
    ),
]

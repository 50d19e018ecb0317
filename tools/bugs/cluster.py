"""Mistakes in plans of several processes."""

from bugs.mutant import Mutant

CLUSTER = "inspection/cluster.py"
TESTS = ("tests/inspection/test_cluster.py",)

CLUSTERS = [
    Mutant(
        "a-share-of-one-minibatch",
        CLUSTER,
        '"mini_batch_size": prompts * config.num_generations // minibatches}',
        '"mini_batch_size": config.mini_batch_size}',
        TESTS,
        "a process is planned with the whole of each minibatch",
    ),
    Mutant(
        "plain-weights-are-spread",
        CLUSTER,
        "        whole = min(size, whole)\n",
        "        whole = 0\n",
        TESTS,
        "an adapter's weights and moments are divided, which every process holds whole",
    ),
    Mutant(
        "nothing-is-put-together",
        CLUSTER,
        "return total + _together(phase)",
        "return total",
        TESTS,
        "sharded jobs fit on paper, and not while a pass goes through",
    ),
    Mutant(
        "gathered-once-a-pass",
        CLUSTER,
        "back = parts.spread - parts.around if phase.backward else 0",
        "back = 0",
        TESTS,
        "layers are put together again for the backward pass, which is not counted",
    ),
    Mutant(
        "one-way-of-the-ring",
        CLUSTER,
        "sums += 2 * ring * plain * phase.steps",
        "sums += ring * plain * phase.steps",
        TESTS,
        "a sum for all goes round twice",
    ),
    Mutant(
        "ahead-without-servers",
        CLUSTER,
        "return self.layout.servers > 0 and self.staleness > 0",
        "return self.staleness > 0",
        TESTS,
        "the same processes sample and train at once",
    ),
    Mutant(
        "servers-cost-nothing",
        CLUSTER,
        "return self.processes + self.servers",
        "return self.processes",
        TESTS,
        "the GPUs of the servers are not counted",
    ),
]

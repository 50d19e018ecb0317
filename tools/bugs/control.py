"""Classic mistakes of PPO on control tasks."""

from bugs.mutant import Mutant

LEARNING, SB3 = ("tests/control/test_learning.py",), ("tests/control/test_sb3.py",)

CONTROL = [
    Mutant(
        "cut-off-is-an-end",
        "control/rollout.py",
        "for (t, i), value in played.cut_off.items():",
        "for (t, i), value in ():",
        LEARNING,
        "a time limit is taken for the end of the world",
    ),
    Mutant(
        "trace-over-an-end",
        "control/rollout.py",
        "(real & ~ended).to(values.dtype).T",
        "real.to(values.dtype).T",
        LEARNING,
        "advantages flow from one episode into the one before",
    ),
    Mutant(
        "reset-step-trained-on",
        "control/update.py",
        "x.flatten(0, 1)[rollout.mask.flatten()]",
        "x.flatten(0, 1)",
        LEARNING,
        "the step that only reset an environment is trained on",
    ),
    Mutant(
        "reset-step-is-real",
        "control/environments.py",
        "real = ~self._ended if self.mode is AutoresetMode.NEXT_STEP else",
        "real = ~self._ended if False else",
        LEARNING,
        "the step after an end counts in Gymnasium's default mode",
    ),
    Mutant(
        "final-observation-of-the-next-episode",
        "control/environments.py",
        'at = infos["final_obs"] if self.mode is AutoresetMode.SAME_STEP and ended.any() else None',
        "at = None",
        LEARNING,
        "a cut-off episode goes on from the next one's first observation",
    ),
    Mutant(
        "lstm-never-forgets",
        "control/networks.py",
        "kept = (~starts[first])",
        "kept = torch.ones_like(starts[first])",
        LEARNING,
        "memory runs over from one episode into the next",
    ),
    Mutant(
        "evaluation-learns-the-scale",
        "control/agent.py",
        "learn=False)",
        "learn=True)",
        LEARNING,
        "an evaluation moves the normalisation",
    ),
    Mutant(
        "clipped-action-trained-on",
        "control/distributions.py",
        "return self.mode(outputs + noise * log_std.exp())",
        "return self.mode((outputs + noise * log_std.exp()).clamp(-1, 1))",
        LEARNING,
        "the action that is trained on is not the one that was drawn",
    ),
    Mutant(
        "sb3-value-loss-halved",
        "control/update.py",
        "return mse_loss(",
        "return 0.5 * mse_loss(",
        SB3,
        "Stable-Baselines3's value loss has no half",
    ),
    Mutant(
        "control-ent-coef-ignored",
        "control/update.py",
        "- config.ent_coef * entropy",
        "- 0.0 * entropy",
        SB3,
        "ent_coef is accepted and ignored",
    ),
]

"""PPO of a language model: the loop. One step is `PPO.step`; the mathematics it calls is in `kedge.core`."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kedge.core import AdaptiveKL, FixedKL, RunningMoments, kl
from kedge.data.encode import Tokenizer
from kedge.data.files import Source
from kedge.engine.engine import Completion, Engine
from kedge.engine.rollouts import Rollouts, collate, generate, in_micro_batches
from kedge.errors import ConfigError
from kedge.evaluation.evaluate import Comparison, Evaluation, evaluate_policy, named_judges
from kedge.evaluation.samples import sample_rows
from kedge.models.critic import Critic, load_critic, new_critic, save_critic
from kedge.models.language_model import LanguageModel, load_language_model, wrap
from kedge.models.recompute import enable_recomputing
from kedge.models.scalar import ScalarModel
from kedge.models.scoring import score_tokens, value_tokens
from kedge.parallel import join
from kedge.rewards.build import RewardLike, build_reward, reward_model_of
from kedge.rewards.scores import Scores, judge
from kedge.tracking import Metrics, ProgressBar, RunFolder, Timer
from kedge.training.checkpoint import load_state, save_checkpoint, to_resume
from kedge.training.optimization import (
    batch_indices,
    compute_dtype,
    make_optimizer,
    precision,
    schedule,
    set_learning_rate,
)
from kedge.training.ppo.batch import Batch, estimate_advantages, token_rewards
from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.prompts import EncodedPrompt, prepare_prompts
from kedge.training.ppo.report import rollout_metrics
from kedge.training.ppo.throughput import peak_flops, throughput
from kedge.training.ppo.update import Update

# Added to the seed of evaluations, so that they never draw the random numbers of a rollout.
EVALUATION_SEED = 0x5EED_0000
EVALUATION_SAMPLES = 8


class PPO:
    """Trains a language model with PPO against any reward.

    Args:
        policy: hub id, folder, run of ``kedge sft`` or ``kedge ppo``; or a loaded model, with its ``tokenizer``.
        prompts: a data file, folder or hub id with a column ``prompt``; or a list of texts, of chat messages, or of
            rows. Other columns reach the reward.
        reward: a function ``f(prompts, completions, **columns) -> list[float]``, ``"package.module:name"``, a reward
            model (folder, id or object), or a list of these or of ``{"function" | "model", "weight", "name"}``.
        config: settings; see :class:`PPOConfig`.
        eval_prompts: like ``prompts``, never trained on; or ``eval_size`` of the prompts are set aside.
        metrics: judges that the training never sees, in the forms of a reward.
        columns: ``{"prompt": "the data's name for it"}``.
        run: folder for metrics, samples, checkpoints and result; None leaves nothing behind.
        resume: go on from the run's last checkpoint. overwrite: delete the run that is there.

    Raises:
        KedgeError: anything in these that does not fit, before any training.
    """

    def __init__(
        self,
        policy: str | Path | PreTrainedModel,
        prompts: Source,
        reward: RewardLike | Sequence[RewardLike],
        config: PPOConfig | None = None,
        *,
        tokenizer: str | Path | Tokenizer | None = None,
        eval_prompts: Source | None = None,
        eval_size: int = 0,
        metrics: Sequence[RewardLike] = (),
        columns: Mapping[str, str] | None = None,
        run: str | Path | RunFolder | None = None,
        resume: bool = False,
        overwrite: bool = False,
        progress: bool = True,
    ) -> None:
        self.config = config = config or PPOConfig()
        self.processes = join()
        if isinstance(run, str | Path):
            run = RunFolder(run, {"ppo": config.resolved()}, overwrite=overwrite, resume=resume)
        self.run = run
        self.progress = progress and self.processes.leads
        self.policy = _language_model(policy, tokenizer, config)
        self.prompts, self.eval_prompts = prepare_prompts(
            self.policy, config, prompts, eval_prompts, eval_size=eval_size, columns=columns
        )
        self.reward = build_reward(reward, device=config.device)
        self.judges = {"score": self.reward} | named_judges(metrics, config.device)
        if not self.eval_prompts and (metrics or config.eval_every):
            raise ConfigError("metrics, eval_every: not used without held-out prompts; set eval_prompts or eval_size")
        self.reference = LanguageModel(
            copy.deepcopy(self.policy.model).requires_grad_(False), self.policy.tokenizer, self.policy.eos_ids
        )
        if config.mini_batch_size < self.processes.size:
            raise ConfigError(
                f"mini_batch_size: {config.mini_batch_size} answers are too few for {self.processes.size} processes"
            )
        self.critic = self._new_critic()
        self.engine = Engine(self.policy)
        self.kl_controller = (
            AdaptiveKL(config.kl_coef, target=config.kl_target, horizon=config.kl_horizon)
            if config.kl_controller == "adaptive"
            else FixedKL(config.kl_coef)
        )
        self.reward_moments = RunningMoments()
        groups = [{"params": list(self.policy.model.parameters()), "lr": config.learning_rate}]
        if self.critic is not None:
            critic_learning_rate = config.critic_learning_rate or config.learning_rate
            groups.append({"params": list(self.critic.parameters()), "lr": critic_learning_rate})
        self.optimizer = make_optimizer(groups, config)
        trunks = [self.policy.model, *([self.critic] if isinstance(self.critic, ScalarModel) else [])]
        recomputed = enable_recomputing(*trunks) if config.gradient_checkpointing else []
        self.update = Update(self.policy, self.critic, self.optimizer, config, self.processes, recomputed)
        self.timer = Timer()
        self.peak_flops = peak_flops(self.policy.device, compute_dtype(config, self.policy.model)) * self.processes.size
        self.step_done = 0
        self.before: Evaluation | None = None
        self.comparison: Comparison | None = None
        if checkpoint := to_resume(self.run):
            self._restore(checkpoint)

    # The loop ---------------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Run all remaining steps; returns the summary: before and after on held-out prompts, seconds by phase."""
        for _ in self:
            pass
        return self.summary()

    def __iter__(self) -> Iterator[Metrics]:
        """The remaining steps one by one, each giving its metrics; evaluations and checkpoints happen on the way."""
        config = self.config
        if self.before is None:
            self.before = self.evaluate(self.reference)
            self._try_reward()
        if self.run is not None:
            self.run.start()
            self.run.forget_after(self.step_done, evaluation_too=self.step_done in (0, config.steps))
            if self.step_done == 0:
                self._report_evaluation(self.before)
        with ProgressBar("PPO", config.steps, enabled=self.progress, start=self.step_done) as bar:
            while self.step_done < config.steps:
                metrics = self.step()
                self.step_done += 1
                if config.eval_every and self.step_done % config.eval_every == 0 and self.step_done < config.steps:
                    metrics |= self._report_evaluation(self.evaluate())
                if self.run is not None:
                    self.run.write_metrics(self.step_done, metrics)
                    if config.checkpoint_every and self.step_done % config.checkpoint_every == 0:
                        self._checkpoint(self.run)
                bar.advance(score=metrics["objective/scores"], kl=metrics["objective/kl"])
                yield metrics

    def _try_reward(self) -> None:
        """Where no evaluation has shown that the reward works, show it before anything is written or deleted."""
        if self.run is not None and not self.eval_prompts:
            prompts = self.prompts[:4]
            completions, _ = self._generate(prompts)
            judge(self.reward, [prompt.record for prompt in prompts], completions, self.processes)

    def step(self) -> Metrics:
        """One step: answers, their scores, advantages, and the update on them."""
        prompts = self._next_prompts()
        with self.timer.lap() as lap, precision(self.config, self.policy.device):
            with self.timer("generate"):
                completions, rollouts = self._generate(prompts)
            with self.timer("reward"), torch.autocast(self.policy.device.type, enabled=False):
                scores = judge(self.reward, [prompt.record for prompt in prompts], completions, self.processes)
            with self.timer("score"):
                batch = self._estimate(completions, rollouts, scores)
            with self.timer("update"):
                kl_coef = self.kl_controller.coefficient
                factor = schedule(self.config, self.step_done, self.config.steps)
                set_learning_rate(self.optimizer, factor)
                updated = self.update(batch, self.step_done, kl_coef)
                self.engine.weights_changed()
            metrics = rollout_metrics(completions, rollouts, scores, batch, self._kl_penalty(kl_coef)) | updated
            self.kl_controller.update(metrics["objective/kl"], len(prompts))
            if self.run is not None:
                samples = self._train_samples(prompts, completions, scores, rollouts, batch)
                self._write_samples(self.run, "train", self.step_done, samples)
        return metrics | {
            "objective/kl_coef": kl_coef,
            "lr": self.config.learning_rate * factor,
            "episode": float((self.step_done + 1) * len(prompts)),
            **{f"time/{phase}": seconds for phase, seconds in lap.items()},
            **self._throughput(rollouts, updated, sum(lap.values())),
        }

    def _kl_penalty(self, kl_coef: float) -> float:
        return kl_coef if self.config.kl_in == "reward" else 0.0

    def _throughput(self, rollouts: Rollouts, updated: Metrics, seconds: float) -> Metrics:
        own_trunk = isinstance(self.critic, ScalarModel)
        minibatches = updated["policy/updates"] + updated["policy/stopped_early"]
        return throughput(
            self.policy.model,
            self.peak_flops,
            seconds,
            lengths=rollouts.lengths.tolist(),
            answered=int(rollouts.response_mask.sum()),
            forward=2 + (self.critic is not None),  # sampling, reference, values
            both=minibatches * self.config.mini_batch_size / self.config.answers * (1 + own_trunk),
        )

    def _next_prompts(self) -> list[EncodedPrompt]:
        rows = batch_indices(len(self.prompts), self.config.batch_size, self.step_done, self.config.seed)
        return [self.prompts[row] for row in rows for _ in range(self.config.num_generations)]

    def _generate(self, prompts: Sequence[EncodedPrompt]) -> tuple[list[Completion], Rollouts]:
        completions = generate(
            self.engine,
            [prompt.ids for prompt in prompts],
            self.config.sampling,
            self.processes,
            seed=self.config.seed,
            first_request=self.step_done * self.config.answers,
        )
        return completions, collate(completions, self.policy.pad_id, self.policy.device)

    @torch.no_grad()
    def _estimate(self, completions: Sequence[Completion], rollouts: Rollouts, scores: Scores) -> Batch:
        config = self.config
        cut_off = torch.tensor([c.finish_reason == "length" for c in completions], device=self.policy.device)
        return estimate_advantages(
            rollouts,
            token_rewards(rollouts, scores, cut_off, config, self.reward_moments),
            self._scored(rollouts, self._reference_logprobs),
            None if self.critic is None else self._scored(rollouts, self._values),
            cut_off,
            self.kl_controller.coefficient,
            config,
        )

    def _scored(self, rollouts: Rollouts, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return in_micro_batches(rollouts, self.config.micro_batch_tokens, score, self.processes)

    def _reference_logprobs(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return score_tokens(self.reference, tokens, mask, temperature=self.config.temperature).logprobs

    def _values(self, tokens: Tensor, mask: Tensor) -> Tensor:
        assert self.critic is not None
        return value_tokens(self.critic, tokens, mask, self.policy)

    # Looking ----------------------------------------------------------------------------------------------------

    def evaluate(self, policy: LanguageModel | None = None) -> Evaluation:
        """Answers of the policy (or another one) to the held-out prompts, judged; empty where none are held out."""
        with self.timer("evaluate"), precision(self.config, self.policy.device):
            return evaluate_policy(
                policy or self.policy,
                [prompt.record for prompt in self.eval_prompts],
                self.judges,
                self.config.sampling,
                reference=self.reference,
                seed=self.config.seed + EVALUATION_SEED,
                micro_batch_tokens=self.config.micro_batch_tokens,
                processes=self.processes,
            )

    def summary(self) -> dict[str, Any]:
        """Before and after on the held-out prompts, win rates with intervals, seconds by phase; written to the run."""
        summary: dict[str, Any] = {"steps": self.step_done, "episodes": self.step_done * self.config.answers}
        if self.eval_prompts:
            self.comparison = Comparison(self.before or self.evaluate(self.reference), self.evaluate())
            self._report_evaluation(self.comparison.after)
            summary |= self.comparison.summary()
        summary["seconds"] = {phase: round(seconds, 3) for phase, seconds in self.timer.seconds.items()}
        if self.run is not None:
            self.save(self.run.path)
            self.run.write_summary(summary)
        return summary

    def _report_evaluation(self, evaluation: Evaluation) -> Metrics:
        if not evaluation.completions:
            return {}
        if self.run is not None:
            self._write_samples(self.run, "eval", self.step_done, evaluation.samples(EVALUATION_SAMPLES))
        metrics = {f"eval/{name}": value for name, value in evaluation.summary().items()}
        if self.run is not None and self.step_done in (0, self.config.steps):
            self.run.write_metrics(self.step_done, metrics)
        return metrics

    def _train_samples(
        self,
        prompts: Sequence[EncodedPrompt],
        completions: Sequence[Completion],
        scores: Scores,
        rollouts: Rollouts,
        batch: Batch,
    ) -> Iterator[dict[str, Any]]:
        divergence = kl(rollouts.logprobs, batch.ref_logprobs).sum(-1).tolist()
        judged = {"score": scores.sums(), **scores.components}
        records = [prompt.record for prompt in prompts]
        return sample_rows(records, completions, judged, divergence, count=self.config.samples_per_step)

    def _write_samples(self, run: RunFolder, split: str, version: int, samples: Iterator[dict[str, Any]]) -> None:
        """``version`` counts the updates behind the policy that wrote them."""
        step = version + 1 if split == "train" else version
        run.write_samples({"step": step, "policy_version": version, "split": split, **sample} for sample in samples)

    # Keeping ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write ``folder/policy``, a plain Hugging Face folder, and ``folder/critic`` where there is one."""
        if self.processes.leads:
            self.policy.save(Path(folder) / "policy")
            if self.critic is not None:
                save_critic(self.critic, Path(folder) / "critic")
        self.processes.wait()

    def _checkpoint(self, run: RunFolder) -> None:
        # No random state: every stream is a function of the seed and the step.
        state = {
            "optimizer": self.optimizer.state_dict(),
            "kl_coefficient": self.kl_controller.coefficient,
            "reward_moments": self.reward_moments.state_dict(),
            "seconds": self.timer.seconds,
        }
        save_checkpoint(
            run.checkpoints, self.step_done, state, self.save, keep_last=self.config.keep_last, processes=self.processes
        )

    def _restore(self, checkpoint: Path) -> None:
        state = load_state(checkpoint)
        self.policy.load_weights(checkpoint / "policy")
        if self.critic is not None:
            load_critic(self.critic, checkpoint / "critic")
        self.optimizer.load_state_dict(state["optimizer"])
        self.kl_controller.coefficient = state["kl_coefficient"]
        self.reward_moments = RunningMoments(**state["reward_moments"])
        self.timer.seconds = state["seconds"]
        self.step_done = state["step"]

    def _new_critic(self) -> Critic | None:
        config = self.config
        if config.advantage_estimator != "gae":
            return None
        if config.critic == "shared" or config.critic_init == "policy":
            return new_critic(config.critic, self.policy)
        model = reward_model_of(self.reward)
        if model is None:
            raise ConfigError("critic_init='reward': the reward has no reward model in it; use critic_init='policy'")
        return new_critic(config.critic, self.policy, model)


def _language_model(
    policy: str | Path | PreTrainedModel, tokenizer: str | Path | Tokenizer | None, config: PPOConfig
) -> LanguageModel:
    if isinstance(policy, nn.Module) and not isinstance(policy, PreTrainedModel):
        raise ConfigError(f"policy: a {type(policy).__name__} is no transformers model; merge its adapters first")
    if isinstance(policy, PreTrainedModel):
        if tokenizer is None or isinstance(tokenizer, str | Path):
            raise ConfigError("policy: a loaded model needs its loaded tokenizer beside it: PPO(..., tokenizer=...)")
        for key in {"device", "dtype"} & config.model_fields_set:
            raise ConfigError(f"{key}: not used with a loaded model, which is where and what it is; take it out")
        return wrap(policy, tokenizer, config.stop_tokens)
    return load_language_model(
        policy, tokenizer=tokenizer, stop_tokens=config.stop_tokens, device=config.device, dtype=config.dtype
    )

"""PPO of a language model: the loop. One step is `PPO.step`; the mathematics it calls is in `kedge.core`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedge.core import AdaptiveKL, FixedKL, RunningMoments
from kedge.data.encode import Tokenizer
from kedge.data.files import Source
from kedge.errors import ConfigError, NotFiniteError
from kedge.evaluation.evaluate import Comparison, Evaluation, measure_policy, named_judges
from kedge.models.adapters import adapter_of, share_base
from kedge.models.language_model import LanguageModel
from kedge.models.recompute import enable_recomputing
from kedge.models.role import Role
from kedge.models.sharding import Sharding
from kedge.parallel import folder_of_all, join
from kedge.rewards.build import RewardLike, build_reward
from kedge.rewards.foreign import TrainerState
from kedge.rewards.scores import Scores, judge
from kedge.runs.callbacks import CallbackLike
from kedge.runs.folder import Metrics, RunFolder, report
from kedge.sampling.completion import Completion
from kedge.sampling.fleet.spec import FleetSpec, sampler_of
from kedge.sampling.local.engine import Engine
from kedge.sampling.rollouts import Rollouts, collate
from kedge.sampling.sampler import Sampler, SamplerOf
from kedge.training.adalora import Ranks
from kedge.training.config import adapt
from kedge.training.fingerprints import of_rewards, of_rows, of_weights
from kedge.training.going_on import Sources, folder_for, kept
from kedge.training.loop import Evaluated, Trainer
from kedge.training.micro_batches import with_micro_batch
from kedge.training.optimization import (
    compute_dtype,
    make_optimizer,
    precision,
    schedule,
    set_learning_rate,
)
from kedge.training.ppo.answers import Answers
from kedge.training.ppo.batch import Batch
from kedge.training.ppo.config import PPOConfig
from kedge.training.ppo.correction import corrected
from kedge.training.ppo.experience import Estimator, Experience
from kedge.training.ppo.guards import Guards
from kedge.training.ppo.movement import Movement
from kedge.training.ppo.prompts import EncodedPrompt, prepare_prompts, refuse_misfits, split_prompts
from kedge.training.ppo.report import live_lines, rollout_metrics
from kedge.training.ppo.roles import critic_of, frozen_modules, policy_of
from kedge.training.ppo.throughput import peak_flops, share_above, throughput
from kedge.training.ppo.trust_region import TrustRegion
from kedge.training.ppo.update import Update, rounding

# Added to the seed of evaluations, so that they never draw the random numbers of a rollout.
EVALUATION_SEED = 0x5EED_0000
EVALUATION_SAMPLES = 8

SOURCES = Sources(
    "ppo",
    PPOConfig,
    names=("policy", "tokenizer", "prompts", "reward", "eval_prompts", "eval_size", "metrics", "columns", "sampler"),
    needed=("policy", "prompts", "reward"),
)


class PPO(Trainer):
    """Trains a language model with PPO against any reward.

    Args:
        policy: hub id, folder, run of ``kedge sft`` or ``kedge ppo``; or a loaded model, with its ``tokenizer``
            (loaded, or where it is). A ``PeftModel`` too, whose adapter is trained.
        prompts: a data file, folder, hub id or table with a column ``prompt``; or a list of texts, of chats or of rows.
            Other columns reach the reward.
        reward: a function ``f(prompts, completions, **columns) -> list[float]``, ``"package.module:name"``, a reward
            model (folder, id or object), or a list of these or of ``{"function" | "model", "weight", "name"}``.
        config: settings, see :class:`PPOConfig`; or a dict of them.
        eval_prompts: like ``prompts``, never trained on; or ``eval_size`` of the prompts are set aside.
        metrics: judges that the training never sees, in the forms of a reward.
        sampler: makes, each time anew, who writes a model's answers; by default the engine here, which writes with the
            model's own tensors. Or vLLM servers, ``{"kind": "vllm", "urls": [...], "weights": folder}``.
        columns: ``{"prompt": "the data's name for it"}``.
        run: folder for metrics, samples, checkpoints and result; None leaves nothing behind.
        resume: go on from the run's last checkpoint.
        overwrite: delete the run that is there.
        callbacks: look on: a :class:`~kedge.Callback`, a function ``f(trainer, metrics)``, or several of them.

    Raises:
        KedgeError: anything in these that does not fit, before any training.
    """

    label = "PPO"
    config: PPOConfig

    def __init__(
        self,
        policy: str | Path | nn.Module,
        prompts: Source,
        reward: RewardLike | Sequence[RewardLike],
        config: PPOConfig | Mapping[str, Any] | None = None,
        *,
        tokenizer: str | Path | Tokenizer | None = None,
        eval_prompts: Source | None = None,
        eval_size: int = 0,
        metrics: RewardLike | Sequence[RewardLike] = (),
        sampler: SamplerOf | Mapping[str, Any] | FleetSpec = Engine,
        columns: Mapping[str, str] | None = None,
        run: str | Path | RunFolder | None = None,
        resume: bool = False,
        overwrite: bool = False,
        callbacks: CallbackLike | Sequence[CallbackLike] | None = None,
        progress: bool = True,
    ) -> None:
        self.config = config = PPOConfig.of(config)
        self.processes = join()
        if isinstance(run, str | Path):
            sources = {
                "policy": policy, "tokenizer": tokenizer, "prompts": prompts, "eval_prompts": eval_prompts,
                "eval_size": eval_size, "reward": reward, "metrics": metrics, "sampler": sampler, "columns": columns,
            }  # fmt: skip
            run = folder_for(run, SOURCES, config, sources, resume=resume, overwrite=overwrite)
        self.run = run
        report(run, config.report_to, checkpoint_every=config.checkpoint_every)
        self.progress = progress and self.processes.leads
        train, held = split_prompts(prompts, eval_prompts, eval_size=eval_size, columns=columns, seed=config.seed)
        refuse_misfits(reward, metrics, train, held)
        self.policy = policy_of(policy, tokenizer, config)
        self.reference = self.policy.frozen_copy(sharded=config.is_sharded)
        adapt(self.policy.model, config, frozen_modules(self.policy, config))
        self.prompts, self.eval_prompts, self.notes = prepare_prompts(self.policy, config, train, held)
        names = ("device", "trust_remote_code", "attn_implementation")
        loading = {name: getattr(config, name) for name in names} | {"sharded": config.is_sharded}
        self.reward = build_reward(reward, **loading, writer=self.policy.tokenizer)
        if config.num_generations == 1 and any(part.terms.normalize == "rank" for _, part in self.reward.weighted()):
            raise ConfigError('normalize: "rank" is among the answers to a prompt; set num_generations to 2 or more')
        self.judges = {"score": self.reward} | named_judges(metrics, **loading)
        if not self.eval_prompts and (metrics or config.eval_every or config.best_metric):
            raise ConfigError(
                "metrics, eval_every, best_metric: not used without held-out prompts; set eval_prompts or eval_size"
            )
        for model in [model for by in self.judges.values() for model in by.models()]:
            share_base(model.module, self.policy.model)
        if config.mini_batch_size < self.processes.size:
            raise ConfigError(
                f"mini_batch_size: {config.mini_batch_size} answers are too few for {self.processes.size} processes"
            )
        self.critic = critic_of(config, self.policy, self.reward)
        if config.is_sharded:
            self._shard(config.sharding(), None if isinstance(policy, nn.Module) else config.weights_dtype)
        longest = max(len(prompt.ids) for prompt in [*self.prompts, *self.eval_prompts]) + config.response_length
        self.config = config = with_micro_batch(config, self.policy.model, longest, run, "ppo", tell=self.progress)
        self.answers = Answers(sampler_of(sampler), self.policy, self.prompts, config, self.processes, longest=longest)
        self.kl_controller = (
            AdaptiveKL(config.kl_coef, target=config.kl_target, horizon=config.kl_horizon)
            if config.kl_controller == "adaptive"
            else FixedKL(config.kl_coef)
        )
        self.reward_moments = RunningMoments()
        self.movement = Movement()
        rates = {"policy": config.learning_rate, "critic": config.critic_learning_rate or config.learning_rate}
        groups = [role.group(rates[name]) for name, role in self.trained_roles.items()]
        self.optimizer = make_optimizer(groups, config)
        trunks = [role.own_trunk() for role in self.trained_roles.values()]
        recomputed = enable_recomputing(*filter(None, trunks)) if config.gradient_checkpointing else []
        idle = {"policy": config.critic_warmup_steps * config.optimizer_steps}
        self.ranks = Ranks(self.trained_roles, config.steps * config.optimizer_steps, idle)
        self.region = TrustRegion(self.optimizer, config.target_kl, retaken=self.ranks.hold)
        self.update = Update(
            self.policy, self.critic, self.optimizer, config, self.processes, self.region, recomputed, self.ranks
        )
        self.estimate = Estimator(self.reference, self.critic, config, self.processes)
        self.guards = Guards(config.guards, rounding=rounding(config, self.policy.model)[0])
        self.before: Evaluation | None = None
        self.after: Evaluation | None = None
        self.comparison: Comparison | None = None
        self.experience: Experience | None = None
        """Of the last step: its prompts, answers, scores and batch."""
        self.set_up(watched=next((name for name in self.judges if name != "score"), "score"), callbacks=callbacks)

    @classmethod
    def resume(
        cls,
        run: str | Path,
        *,
        callbacks: CallbackLike | Sequence[CallbackLike] | None = None,
        progress: bool = True,
        **given: Any,
    ) -> "PPO":
        """Go on with a run from its last checkpoint, as its recipe says: ``PPO.resume("runs/x").train()``.

        Args:
            callbacks: as for the constructor.
            given: what the recipe cannot say (a function, a loaded model, rows) under the names of the constructor, and
                settings that a resumed run may change: ``PPO.resume("runs/x", reward=my_function, steps=300)``.

        Raises:
            KedgeError: as the constructor; something is missing, or another one than the run began with.
        """
        return cls(**kept(run, SOURCES, given), callbacks=callbacks, progress=progress)

    # What the loop asks for -------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int:
        return self.config.steps

    @property
    def sampler(self) -> Sampler:
        """Who writes the policy's answers."""
        return self.answers.sampler

    def look_before(self) -> Evaluated:
        if self.before is None:
            self.before = self.evaluate(self.reference)
            self._try_reward()
        return _evaluated(self.before)

    def look(self) -> Evaluated:
        """A number that is not finite costs the run no more than this evaluation."""
        try:
            self.after = self.evaluate()
        except NotFiniteError as error:
            self.after = None
            self.left_out.tell(self.step_done, f"the evaluation after step {self.step_done} is left out: {error}")
            return Evaluated({})
        return _evaluated(self.after)

    def measured(self, before: Evaluated) -> Iterable[str]:
        # A judge that has abstained so far is measured all the same.
        return {*self.judges, *super().measured(before)} if self.eval_prompts else ()

    def outcome(self, after: Evaluated) -> dict[str, Any]:
        counts = {"episodes": self.step_done * self.config.answers}
        if not after.metrics:
            return counts
        assert self.after is not None
        self.comparison = Comparison(self.before or self.evaluate(self.reference), self.after)
        return counts | self.comparison.summary()

    def watch(self, metrics: Metrics) -> tuple[list[str], str | None]:
        alarms = self.guards.watch(metrics) if "train/left_out" not in metrics else []
        for alarm in alarms:
            if self.run is not None:
                self.run.write_event(self.step_done, event=alarm.guard, value=alarm.value, message=alarm.message)
        pausing = next((alarm.message for alarm in alarms if alarm.pause), None)
        said = [f"step {self.step_done}: {alarm.message}" for alarm in alarms]
        return said, None if pausing is None else f"paused by the guard {pausing}"

    def live(self, metrics: Metrics) -> tuple[tuple[str, ...], dict[str, float]]:
        return live_lines(metrics), {}

    def _try_reward(self) -> None:
        """Where no evaluation has shown that the reward works, show it before anything is written or deleted."""
        if self.run is not None and not self.eval_prompts:
            prompts = self.prompts[:4]
            with self.timer("generate"), self.precision():
                completions = self.answers.to(prompts)
            self._judge(prompts, completions, training=False)

    # A step ------------------------------------------------------------------------------------------------------

    def work(self) -> Metrics:
        """Answers, their scores, advantages, and the update on them."""
        experience = self.collect()
        kl_coef = self.kl_controller.coefficient
        updated = self._update(experience.batch, kl_coef)
        report = self._report(experience, kl_coef)
        self.kl_controller.update(report["objective/kl"], len(experience.prompts))
        return report | updated

    def collect(self) -> Experience:
        """The answers to this step's prompts, scored and ready to train on.

        Raises:
            NotFiniteError: logits, a score, log-probabilities, values or advantages are not finite.
        """
        self.experience = None  # that of the step before is not kept beside this one's
        prompts = self._next_prompts()
        completions, rollouts = self._sample()
        rollouts, sampled = self._corrected(completions, rollouts)
        scores = self._judge(prompts, completions)
        batch = self._estimate(completions, rollouts, scores)
        self.experience = Experience(prompts, completions, rollouts, scores, batch, sampled)
        return self.experience

    def counted(self, metrics: Metrics, seconds: Mapping[str, float]) -> Metrics:
        found = {"episode": float((self.step_done + 1) * self.config.answers)}
        if "policy/updates" in metrics and self.experience is not None:
            found = self._throughput(self.experience, metrics, sum(seconds.values())) | found
        return found | {f"time/{phase}": value for phase, value in seconds.items()}

    def _next_prompts(self) -> list[EncodedPrompt]:
        prompts = self.answers.prompts_of(self.step_done)
        self.left_out.note(prompts=[prompt.record.text for prompt in prompts])
        return prompts

    def _sample(self) -> tuple[list[Completion], Rollouts]:
        with self.timer("generate"), self.precision():  # always: the engine keeps its cache in what it first met
            completions = self.answers.of_step(self.step_done)
            rollouts = collate(completions, self.policy.pad_id, self.policy.device)
        self.left_out.note(**vars(rollouts))
        return completions, rollouts

    def _corrected(self, completions: Sequence[Completion], rollouts: Rollouts) -> tuple[Rollouts, Metrics]:
        """The answers as the update may take them, and what there is to say of a sampler with weights of its own."""
        if not self.sampler.writes_apart:
            return rollouts, {}
        with self.timer("estimate"):
            rollouts = self.estimate.with_states(rollouts)
            return corrected(
                completions,
                rollouts,
                self.config,
                version=self.step_done,
                logprobs=lambda rollouts: self.estimate.logprobs(self.policy, rollouts),
                rounding=rounding(self.config, self.policy.model),
            )

    def _judge(
        self, prompts: Sequence[EncodedPrompt], completions: Sequence[Completion], *, training: bool = True
    ) -> Scores:
        records = [prompt.record for prompt in prompts]
        with self.timer("reward"), torch.autocast(self.policy.device.type, enabled=False):
            state = self._trainer_state()
            scores = judge(self.reward, records, completions, self.processes, state, training=training)
        self.left_out.note(scores=scores.sums())
        return scores

    def _estimate(self, completions: Sequence[Completion], rollouts: Rollouts, scores: Scores) -> Batch:
        with self.timer("estimate"):
            kl_coef = self.kl_controller.coefficient
            batch = self.estimate(completions, rollouts, scores, self.reward_moments, kl_coef)
        self.left_out.note(**(vars(batch) | {"states": None}))  # hundreds of times as large as all else
        return batch

    def _update(self, batch: Batch, kl_coef: float) -> Metrics:
        set_learning_rate(self.optimizer, schedule(self.config, self.step_done, self.config.steps))
        with self.timer("update"), self.processes.agreeing():  # what one sampler refuses stops all
            try:
                return self.update(batch, self.step_done, kl_coef)
            finally:
                self.answers.publish(self.step_done + 1)

    def _report(self, experience: Experience, kl_coef: float) -> Metrics:
        """What the step says of itself, as the answers were before the update."""
        if self.run is not None:
            where = {"step": self.step_done + 1, "policy_version": self.step_done, "split": "train"}
            written = [{"policy_version": each.versions[0]} if each.versions else {} for each in experience.completions]
            samples = zip(written, experience.samples(self.config.samples_per_step), strict=False)
            self.run.write_samples({**where, **version, **sample} for version, sample in samples)
        metrics = rollout_metrics(experience, self.config, self._kl_penalty(kl_coef))
        of_sampler = {**experience.sampled, **self.sampler.metrics()}
        return metrics | self.movement.take_in(metrics) | of_sampler | {"objective/kl_coef": kl_coef}

    def _kl_penalty(self, kl_coef: float) -> float:
        return kl_coef if self.config.kl_in == "reward" else 0.0

    @cached_property
    def _peak_flops(self) -> float:
        """Measured when first asked for: a trainer that is only rehearsed or looked at need not wait for it."""
        return peak_flops(self.policy.device, compute_dtype(self.config, self.policy.model)) * self.processes.size

    def _throughput(self, experience: Experience, metrics: Metrics, seconds: float) -> Metrics:
        rollouts, trunks = experience.rollouts, sum(r.own_trunk() is not None for r in self.trained_roles.values())
        above = 1.0 if experience.batch.states is None else share_above(self.policy.model, self.policy.bottom)
        minibatches = metrics["policy/updates"] + metrics["policy/stopped_early"]
        return throughput(
            self.policy.model,
            self._peak_flops,
            seconds,
            lengths=rollouts.lengths.tolist(),
            answered=int(rollouts.response_mask.sum()),
            # Sampling, the frozen bottom, reference, values, the policy's own log-probabilities.
            forward=1 + (1 - above) + above * (1 + (self.critic is not None) + self.sampler.writes_apart),
            both=above * minibatches * self.config.mini_batch_size / self.config.answers * trunks,
            backward=2.0 if adapter_of(self.policy.model) is None else 1.0,
        )

    def precision(self) -> torch.autocast:
        return precision(self.config, self.policy.device)

    def _trainer_state(self) -> TrainerState:
        """What reward functions are told of the training."""
        passes = self.config.batch_size / len(self.prompts)
        whole = math.ceil(self.config.steps * passes)
        return TrainerState(self.step_done, self.config.steps, self.step_done * passes, whole)

    # Looking ----------------------------------------------------------------------------------------------------

    def evaluate(self, policy: LanguageModel | None = None) -> Evaluation:
        """Answers of the policy (or another one) to the held-out prompts, judged; empty where none are held out."""
        policy = policy or self.policy
        with self.timer("evaluate"), self.precision(), self.answers.sampler_for(policy) as sampler:
            return measure_policy(
                policy,
                sampler,
                [prompt.record for prompt in self.eval_prompts],
                self.judges,
                self.config.sampling,
                ids=[prompt.ids for prompt in self.eval_prompts],
                reference=self.reference,
                seed=self.config.seed + EVALUATION_SEED,
                micro_batch_tokens=self.config.tokens_at_a_time,
                processes=self.processes,
                state=self._trainer_state(),
            )

    def close(self) -> None:
        """Give back what the sampler holds (threads, servers); nothing is asked of the trainer after that."""
        self.answers.close()

    # Keeping ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write ``folder/policy``, a plain Hugging Face folder, and ``folder/critic`` where there is one.

        Raises:
            StorageError: they cannot be written; what was there is as it was.
        """
        for name, role in self.trained_roles.items():
            with folder_of_all(Path(folder).expanduser() / name, self.processes) as aside:
                role.save(aside)

    def _shard(self, sharding: Sharding, dtype: torch.dtype | None) -> None:
        """Spread all models over the processes, each held in what one process holds it in.

        Args:
            sharding: the job's.
            dtype: the policy's; None: what it has.
        """
        for role in (self.policy, self.reference):
            role.shard(sharding, dtype)
        if self.critic is not None:
            self.critic.shard(sharding, torch.float32 if self.config.critic_init == "reward" else dtype)
        judging = {id(model.module): model for by in self.judges.values() for model in by.models()}
        for model in judging.values():
            model.shard(sharding, torch.float32)

    @property
    def trained_roles(self) -> dict[str, Role]:
        """What is trained, by the name of the folder that it is kept in."""
        critic: dict[str, Role] = {} if self.critic is None else {"critic": self.critic}
        return {"policy": self.policy} | critic

    def write_models(self, checkpoint: Path | None) -> None:
        for name, role in self.trained_roles.items():
            role.save(None if checkpoint is None else checkpoint / name)

    def load_models(self, checkpoint: Path) -> None:
        for name, role in self.trained_roles.items():
            role.load_weights(checkpoint / name)

    def fingerprints(self) -> dict[str, str]:
        rows = {"prompts": self.prompts, "held-out prompts": self.eval_prompts}
        rewards = [("reward" if name == "score" else "metric", by) for name, by in self.judges.items()]
        kind = type(self.sampler)
        other = {} if kind is Engine else {"sampler": f"{kind.__module__}.{kind.__qualname__}"}
        return {
            "policy": of_weights(self.policy.model),
            **other,
            **{name: of_rows([p.ids, p.record.text, p.record.columns] for p in part) for name, part in rows.items()},
            **dict(of_rewards(rewards)),
        }

    def state(self) -> dict[str, Any]:
        return {
            "kl_coefficient": self.kl_controller.coefficient,
            "reward_moments": self.reward_moments.state_dict(),
            "reward": self.reward.state_dict(),
            "movement": self.movement.state_dict(),
            "learning_rate_scale": self.region.scale,
            "guards": self.guards.state_dict(),
            "ranks": self.ranks.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        with self.processes.agreeing():
            self.answers.publish(state["step"])
        self.kl_controller.coefficient = state["kl_coefficient"]
        self.reward_moments = RunningMoments(**state["reward_moments"])
        self.reward.load_state_dict(state.get("reward", self.reward.state_dict()))
        self.movement = Movement(**state.get("movement", {}))
        self.region.scale = state["learning_rate_scale"]
        self.guards.load_state_dict(state["guards"])
        self.ranks.load_state_dict(state.get("ranks", {}))


def _evaluated(evaluation: Evaluation) -> Evaluated:
    if not evaluation.completions:
        return Evaluated({})
    metrics = {f"eval/{name}": value for name, value in evaluation.summary().items()}
    return Evaluated(metrics, [*evaluation.samples(EVALUATION_SAMPLES)])

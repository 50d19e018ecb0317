"""The names that users bring from other libraries, and kedge's for the same thing.

One table, for the messages about unknown keys (:mod:`kedge.config.settings`) and for docs/coming-from.md. A name that
is kedge's too, and means the same, is not in it.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

HERE_NOT_YET = "not here yet"
PAGE = "docs/coming-from.md"


@dataclass(frozen=True)
class Name:
    """A setting of another library."""

    theirs: str
    libraries: str
    ours: Mapping[str, str] = field(default_factory=dict)
    """``{stage: key}`` of kedge's recipe tables that have it; none where kedge has no such setting."""
    note: str = ""
    """How it differs, or why it is not here. Keys of kedge's stand in backquotes."""


def _name(theirs: str, libraries: str, note: str = "", *, training: str = "", **ours: str) -> Name:
    """``training`` is the key of all three stages that train."""
    everywhere = dict.fromkeys(("sft", "reward", "ppo"), training) if training else {}
    return Name(theirs, libraries, everywhere | ours, note)


HF, TRL, FACTORY, OPEN, VERL, SB3 = "transformers", "TRL", "LLaMA-Factory", "OpenRLHF", "verl", "Stable-Baselines3"
OTHERS = "others"

_ADAPTER = '`adapter = { method = "lora", r = 16, ... }`, with PEFT\'s names'
_QUANTISED = f"{HERE_NOT_YET}: quantised weights"
_SHARDS = "`shard = true`, where `torchrun` starts several processes: FSDP2 (docs/processes.md)"
_VLLM = (
    '`sampler = { kind = "vllm", urls = [...], weights = "..." }` in [ppo] (docs/fleet.md); default: the engine here'
)
_PACKING = f"{HERE_NOT_YET}: packing; micro-batches are sorted by length, so that there is little padding"
_HUB = f"{HERE_NOT_YET}: push to the hub; the result is a plain Hugging Face folder"
_MICRO = "all micro-batches are cut by tokens, `micro_batch_tokens`; how they are cut does not change the result"
_ADAM = "`optimizer_args = { betas = [0.9, 0.999], eps = 1e-5 }`"
_AUTOCAST = '`autocast = "bfloat16"` computes in it, `dtype = "bfloat16"` holds the weights in it too'
_EVERY_STEP = "not needed: every step is a line of metrics.jsonl"
_ROWS = "a file, a folder, or `org/name:split`"
_COMMAND = "not a setting: the command says it, `kedge sft | reward | ppo`"
_COLUMNS = '`columns = { prompt = "the data\'s name" }` says what columns are called'
_TRUNCATION = "PPO samples from the whole distribution; `kedge chat` and [evaluate] have it"
_SAMPLER = f"{HERE_NOT_YET}: the policy is sampled as it is"
_DROPOUT = "not a setting: dropout is off"
_ESTIMATOR = "not a setting: k1 in the reward, and in the loss one whose gradient is right"
_SELF = "not needed in [ppo]: the reference is the policy as the run began with it"
_MULTITURN = f"{HERE_NOT_YET}: answers of several turns, tools"

NAMES: tuple[Name, ...] = (
    # Models and data
    _name("model_name_or_path", f"{HF}, {TRL}, {FACTORY}", sft="model", reward="model", ppo="policy",
        evaluate="policy"),
    _name("model_name", f"{TRL}, SkyRL", sft="model", reward="model", ppo="policy", evaluate="policy"),
    _name("model_path", VERL, sft="model", reward="model", ppo="policy", evaluate="policy"),
    _name("pretrain", OPEN, sft="model", reward="model", ppo="policy"),
    _name("sft_model_path", f"{TRL} PPO", ppo="policy"),
    _name("actor_model", "DeepSpeed-Chat", ppo="policy"),
    _name("ref_model", f"{TRL}, {FACTORY}", _SELF, evaluate="baseline"),
    _name("ref_policy", TRL, _SELF),
    _name("reward_model_path", f"{TRL} PPO", ppo="reward"),
    _name("reward_model", FACTORY, ppo="reward"),
    _name("reward_pretrain", OPEN, ppo="reward"),
    _name("reward_funcs", f"{TRL} GRPO", "a list of `module:function`, reward models, or both", ppo="reward"),
    _name("rewards", OTHERS, ppo="reward"),
    _name("custom_reward_function", VERL, "`module:function`", ppo="reward"),
    _name("reward_weights", f"{TRL} GRPO", "each is the `weight` of an entry: [[ppo.reward]]", ppo="reward"),
    _name("reward_model_type", FACTORY, "not needed: a reward model is a folder, with its own tokenizer"),
    _name("remote_rm_url", OPEN, f"{HERE_NOT_YET}: HTTP rewards; a reward function may ask a service"),
    _name("critic_pretrain", OPEN, '`critic = "separate"`, begun from the policy or the reward model',
        ppo="critic_init"),
    _name("value_model", TRL, '`critic = "separate"`, begun from the policy or the reward model', ppo="critic_init"),
    _name("tokenizer_name", HF, training="tokenizer", evaluate="tokenizer"),
    _name("tokenizer_name_or_path", HF, training="tokenizer", evaluate="tokenizer"),
    _name("processing_class", f"{HF}, {TRL}", training="tokenizer", evaluate="tokenizer"),
    _name("dataset", FACTORY, _ROWS, sft="data", reward="data", ppo="prompts", evaluate="prompts"),
    _name("dataset_name", TRL, _ROWS, sft="data", reward="data", ppo="prompts", evaluate="prompts"),
    _name("train_dataset", f"{HF}, {TRL}", _ROWS, sft="data", reward="data", ppo="prompts"),
    _name("train_files", VERL, _ROWS, sft="data", reward="data", ppo="prompts"),
    _name("prompt_data", OPEN, _ROWS, ppo="prompts"),
    _name("dataset_train_split", TRL, "the split follows the name: `org/name:split`"),
    _name("eval_dataset", f"{HF}, {TRL}, {FACTORY}", sft="eval_data", reward="eval_data", ppo="eval_prompts"),
    _name("val_files", VERL, sft="eval_data", reward="eval_data", ppo="eval_prompts"),
    _name("val_size", FACTORY, "a number of rows, not a share of them", training="eval_size"),
    _name("dataset_text_field", f"{TRL} SFT", _COLUMNS, training="columns", evaluate="columns"),
    _name("input_key", OPEN, _COLUMNS, training="columns"),
    _name("prompt_key", VERL, _COLUMNS, training="columns"),
    _name("remove_unused_columns", HF, "not needed: every other column reaches the reward"),
    _name("template", FACTORY, "not a setting: the tokenizer's own chat template is used"),
    _name("chat_template_path", TRL, "not a setting: the tokenizer's own chat template is used"),
    _name("apply_chat_template", OPEN, "not a setting: messages go through the chat template, plain text does not"),
    _name("preprocessing_num_workers", FACTORY, "not needed: rows are encoded in one process"),
    _name("dataset_num_proc", TRL, "not needed: rows are encoded in one process"),
    _name("max_samples", FACTORY, "in training a part of the file is a file", evaluate="limit"),
    _name("packing", f"{TRL} SFT, {FACTORY}", _PACKING),
    _name("packing_samples", OPEN, _PACKING),
    _name("completion_only_loss", f"{TRL} SFT", "not a setting: the loss is of the completions alone"),
    _name("train_on_prompt", FACTORY, "not a setting: the loss is of the completions alone"),
    # Lengths and sampling
    _name("assistant_only_loss", f"{TRL} SFT", "not a setting: the loss is of the last answer alone"),
    _name("mask_history", FACTORY, "not a setting: the loss is of the last answer alone"),
    _name("max_completion_length", f"{TRL} GRPO", ppo="response_length"),
    _name("max_new_tokens", f"{HF}, {FACTORY}", ppo="response_length", evaluate="response_length"),
    _name("generate_max_len", OPEN, ppo="response_length"),
    _name("max_response_length", VERL, ppo="response_length"),
    _name("prompt_max_len", OPEN, ppo="max_prompt_length"),
    _name("max_seq_length", f"{TRL} SFT", sft="max_length", reward="max_length"),
    _name("max_seq_len", f"{TRL}, {OPEN}", sft="max_length", reward="max_length"),
    _name("max_len", OPEN, sft="max_length", reward="max_length"),
    _name("cutoff_len", FACTORY, sft="max_length", reward="max_length", ppo="max_prompt_length"),
    _name("max_length", f"{HF}, {TRL}", "prompt and answer apart: `response_length` is the answer's",
        ppo="max_prompt_length"),
    _name("truncation_mode", TRL, "what loses its beginning or end, and when: docs/recipes.md", training="too_long"),
    _name("stop_token", f"{TRL} PPO", "the model's own EOS ends an answer anyway", sft="stop_tokens",
        ppo="stop_tokens"),
    _name("stop_token_id", f"{TRL} PPO", "by its text, not its number", sft="stop_tokens", ppo="stop_tokens"),
    _name("eos_token", f"{TRL} SFT", "besides the model's own", sft="stop_tokens", ppo="stop_tokens"),
    _name("stop", "vLLM, OpenAI", ppo="stop_strings", evaluate="stop_strings"),
    _name("pad_token", f"{TRL} SFT", "not a setting: masks come from lengths, and pad may equal EOS"),
    _name("repetition_penalty", f"{HF}, {TRL}", _SAMPLER),
    _name("generation_kwargs", TRL, "`temperature`, `response_length`, `stop_strings` and `stop_tokens` are settings"),
    _name("do_sample", HF, "not a setting: PPO samples, by `temperature`", evaluate="temperature"),
    _name("cache_implementation", f"{HF}, {TRL} GRPO", "not a setting: the engine has a cache of its own"),
    _name("top_k", HF, _TRUNCATION, evaluate="top_k"),
    _name("top_p", HF, _TRUNCATION, evaluate="top_p"),
    _name("min_p", HF, _TRUNCATION, evaluate="min_p"),
    _name("use_vllm", TRL, _VLLM),
    _name("vllm_mode", TRL, _VLLM),
    _name("vllm_num_engines", OPEN, _VLLM),
    _name("async_train", OPEN, "1 is one step ahead; needs a `sampler` of its own", ppo="max_staleness"),
    _name("max_async_level", OTHERS, "of prime-rl", ppo="max_staleness"),
    _name("max_head_offpolicyness", OTHERS, "of AReaL", ppo="max_staleness"),
    _name("vllm_importance_sampling_correction", f"{TRL} GRPO", "always there where `max_staleness` is not 0",
        ppo="importance"),
    _name("vllm_importance_sampling_mode", f"{TRL} GRPO", "the weights are a token's", ppo="importance"),
    _name("vllm_importance_sampling_cap", f"{TRL} GRPO", ppo="importance_cap"),
    _name("rollout_is_threshold", VERL, ppo="importance_cap"),
    # How long, and in which batches
    _name(
        "num_train_epochs", f"{HF}, {TRL}, {FACTORY}",
        "in [ppo] steps of `batch_size` prompts; [sft] and [reward] count passes over the data",
        sft="epochs", reward="epochs", ppo="steps",
    ),
    _name("max_epochs", OPEN, "in [ppo] passes over a step's answers", sft="epochs", reward="epochs",
        ppo="num_ppo_epochs"),
    _name("num_episodes", OPEN, "steps of `batch_size` prompts", ppo="steps"),
    _name("total_epochs", VERL, "steps of `batch_size` prompts", sft="epochs", reward="epochs", ppo="steps"),
    _name("total_training_steps", VERL, "[sft] and [reward] count passes over the data", sft="epochs", reward="epochs",
        ppo="steps"),
    _name("total_episodes", f"{TRL} PPO", "answers / (`batch_size` * `num_generations`)", ppo="steps"),
    _name("max_steps", f"{HF}, {TRL}", "in [sft] and [reward] it follows from passes", sft="epochs", reward="epochs",
        ppo="steps"),
    _name("total_timesteps", SB3, "steps of `batch_size` prompts", ppo="steps"),
    _name("n_timesteps", "RL Zoo", ppo="steps", control="total_timesteps"),
    _name(
        "per_device_train_batch_size", f"{HF}, {TRL}, {FACTORY}",
        "of all processes together; in [ppo] prompts a step, and `mini_batch_size` answers an optimiser step",
        training="batch_size",
    ),
    _name("local_batch_size", f"{TRL} PPO", "of all processes together", training="batch_size"),
    _name("per_device_eval_batch_size", f"{HF}, {TRL}", _MICRO, training="micro_batch_tokens"),
    _name(
        "gradient_accumulation_steps", f"{HF}, {TRL}, {FACTORY}",
        "not needed: `batch_size` (in [ppo] `mini_batch_size`) is what an optimiser step sees, and "
        "`micro_batch_tokens` cuts it so that it fits the memory",
    ),
    _name("auto_find_batch_size", HF, _MICRO, training="micro_batch_tokens"),
    _name("micro_train_batch_size", OPEN, _MICRO, training="micro_batch_tokens"),
    _name("micro_rollout_batch_size", OPEN, _MICRO, training="micro_batch_tokens"),
    _name("ppo_micro_batch_size_per_gpu", VERL, _MICRO, training="micro_batch_tokens"),
    _name("ppo_micro_batch_size", VERL, _MICRO, training="micro_batch_tokens"),
    _name("micro_batch_size", "NeMo-Aligner, Axolotl", _MICRO, training="micro_batch_tokens"),
    _name("val_batch_size", VERL, _MICRO, training="micro_batch_tokens"),
    _name("ppo_max_token_len_per_gpu", VERL, training="micro_batch_tokens"),
    _name("local_rollout_forward_batch_size", f"{TRL} PPO", _MICRO, training="micro_batch_tokens"),
    _name("rollout_batch_size", OPEN, ppo="batch_size"),
    _name(
        "train_batch_size", f"{OPEN}, {VERL}",
        "verl's is prompts a step, `batch_size`; OpenRLHF's is answers an optimiser step, `mini_batch_size`",
        training="batch_size",
    ),
    _name("generation_batch_size", f"{TRL} GRPO", "in prompts, not answers", ppo="batch_size"),
    _name("steps_per_generation", f"{TRL} GRPO", "the size of an optimiser step, not how many there are",
        ppo="mini_batch_size"),
    _name("ppo_mini_batch_size", VERL, "in answers", ppo="mini_batch_size"),
    _name("num_mini_batches", f"{TRL} PPO", "their size, not their number", ppo="mini_batch_size"),
    _name("n_steps", SB3, "prompts a step: a prompt and its answer are an episode", ppo="batch_size"),
    _name("n_envs", SB3, "a control task's; a language model has prompts", ppo="batch_size"),
    _name("n_samples_per_prompt", OPEN, ppo="num_generations"),
    _name("num_generations_eval", f"{TRL} GRPO", f"{HERE_NOT_YET}: one answer to a held-out prompt"),
    _name("n", f"{VERL} rollout", ppo="num_generations"),
    _name("num_iterations", f"{TRL} GRPO", ppo="num_ppo_epochs"),
    _name("ppo_epochs", f"{TRL}, {FACTORY}, {VERL}", ppo="num_ppo_epochs"),
    _name("n_epochs", SB3, ppo="num_ppo_epochs"),
    _name("ppo_buffer_size", FACTORY, "prompts a step", ppo="batch_size"),
    # The algorithm
    _name("beta", f"{TRL} GRPO", 'TRL\'s GRPO pays it in the loss: `kl_in = "loss"`', ppo="kl_coef"),
    _name("init_kl_coef", f"{TRL}, {OPEN}", ppo="kl_coef"),
    _name("kl_loss_coef", VERL, '`kl_in = "loss"`', ppo="kl_coef"),
    _name("use_kl_loss", f"{VERL}, {OPEN}", 'true is "loss", false is "reward"', ppo="kl_in"),
    _name("use_kl_in_reward", VERL, 'true is "reward"', ppo="kl_in"),
    _name("kl_penalty", f"{TRL}, {VERL}", _ESTIMATOR),
    _name("kl_loss_type", VERL, _ESTIMATOR),
    _name("kl_estimator", f"{TRL}, {OPEN}", _ESTIMATOR),
    _name("adap_kl_ctrl", TRL, '"adaptive" or "fixed"', ppo="kl_controller"),
    _name("kl_ctrl", VERL, '"adaptive" or "fixed"', ppo="kl_controller"),
    _name("target", TRL, ppo="kl_target"),
    _name("ppo_target", FACTORY, ppo="kl_target"),
    _name("horizon", TRL, ppo="kl_horizon"),
    _name("early_stopping", TRL, "a limit in nats a token, on by default", ppo="target_kl"),
    _name("epsilon", f"{TRL} GRPO", ppo="cliprange"),
    _name("epsilon_high", f"{TRL} GRPO", ppo="cliprange_high"),
    _name("delta", f"{TRL} GRPO", ppo="dual_clip"),
    _name("eps_clip", OPEN, ppo="cliprange", control="clip_range"),
    _name("clip_range", SB3, ppo="cliprange"),
    _name("clip_ratio", VERL, ppo="cliprange", control="clip_range"),
    _name("clip_ratio_low", VERL, ppo="cliprange"),
    _name("clip_coef", "CleanRL", ppo="cliprange", control="clip_range"),
    _name("clip_eps", OTHERS, ppo="cliprange", control="clip_range"),
    _name("clip_ratio_high", VERL, ppo="cliprange_high"),
    _name("clip_ratio_c", VERL, ppo="dual_clip"),
    _name("cliprange", f"{TRL} PPO", control="clip_range"),
    _name("cliprange_value", f"{TRL} PPO", control="clip_range_vf"),
    _name("clip_range_vf", SB3, ppo="cliprange_value"),
    _name("value_clip", OPEN, ppo="cliprange_value"),
    _name("gae_lambda", SB3, ppo="lam"),
    _name("lambd", OPEN, ppo="lam", control="gae_lambda"),
    _name("lam", f"{TRL} PPO, {VERL}", control="gae_lambda"),
    _name("ent_coef", SB3, ppo="entropy_coef"),
    _name("entropy_coef", "CleanRL", control="ent_coef"),
    _name("entropy_coeff", VERL, ppo="entropy_coef", control="ent_coef"),
    _name("entropy_loss_coef", OPEN, ppo="entropy_coef"),
    _name("normalize_advantage", SB3, ppo="whiten_advantages"),
    _name("advantage_normalization", OPEN, ppo="whiten_advantages"),
    _name("ppo_whiten_rewards", FACTORY, ppo="whiten_rewards"),
    _name("ppo_score_norm", FACTORY, "divides by the running deviation", ppo="scale_rewards"),
    _name("use_score_scaling", TRL, ppo="scale_rewards"),
    _name("normalize_reward", f"{OPEN}, {SB3}", ppo="scale_rewards", control="normalize_rewards"),
    _name("score_clip", TRL, ppo="clip_rewards"),
    _name("reward_clip_range", OPEN, "one number: the largest of either sign", ppo="clip_rewards"),
    _name("adv_estimator", VERL, ppo="advantage_estimator"),
    _name("no_advantage_std_norm", OPEN, 'true is "dr_grpo"', ppo="advantage_estimator"),
    _name("norm_adv_by_std_in_grpo", VERL, 'false is "dr_grpo"', ppo="advantage_estimator"),
    _name("loss_agg_mode", VERL, "not a setting: every token of a minibatch weighs the same in the loss"),
    _name("value_loss_coef", OTHERS, ppo="vf_coef", control="vf_coef"),
    _name("loss_type", f"{TRL} GRPO", '"grpo" or "dr_grpo"; every token weighs the same in the loss',
        ppo="advantage_estimator"),
    _name("importance_sampling_level", f"{TRL} GRPO", f"{HERE_NOT_YET}: the ratio is a token's"),
    _name("top_entropy_quantile", f"{TRL} GRPO", f"{HERE_NOT_YET}: every token of an answer is trained on"),
    _name("mask_truncated_completions", f"{TRL} GRPO", '`cutoff = "mask"`', ppo="cutoff"),
    _name("sync_ref_model", f"{TRL} GRPO",
        f"{HERE_NOT_YET}: a reference that moves; it stays the policy of the beginning"),
    _name("disable_dropout", TRL, _DROPOUT),
    _name("tools", f"{TRL} GRPO", _MULTITURN),
    _name("max_turns", VERL, _MULTITURN),
    _name("log_completions", f"{TRL} GRPO", ppo="samples_per_step"),
    _name("log_val_generations", VERL, "not a setting: samples.jsonl has answers to held-out prompts"),
    _name("num_completions_to_print", f"{TRL} GRPO", ppo="samples_per_step"),
    _name("num_sample_generations", f"{TRL} PPO", ppo="samples_per_step"),
    _name("value_lr", VERL, ppo="critic_learning_rate"),
    _name("critic_lr", VERL, ppo="critic_learning_rate"),
    _name("critic_warmup", VERL, ppo="critic_warmup_steps"),
    _name("freezing_actor_steps", OPEN, ppo="critic_warmup_steps"),
    _name("share_features_extractor", SB3, "true is \"shared\"", ppo="critic"),
    # The optimiser
    _name("lr", f"{VERL}, {SB3}", training="learning_rate", control="learning_rate"),
    _name("actor_learning_rate", OPEN, ppo="learning_rate"),
    _name("actor_lr", VERL, ppo="learning_rate"),
    _name("lr_scheduler", OPEN, training="lr_scheduler_type"),
    _name("warmup_style", VERL, training="lr_scheduler_type"),
    _name("lr_warmup_ratio", OPEN, training="warmup_ratio"),
    _name("lr_warmup_steps", VERL, training="warmup_steps"),
    _name("lr_warmup_steps_ratio", VERL, training="warmup_ratio"),
    _name("num_warmup_steps", HF, training="warmup_steps"),
    _name("lr_scheduler_specific_kwargs", HF, training="lr_scheduler_kwargs"),
    _name("optim", HF, training="optimizer"),
    _name("optim_args", HF, "a table", training="optimizer_args"),
    _name("adam_beta1", HF, _ADAM, training="optimizer_args"),
    _name("adam_beta2", HF, _ADAM, training="optimizer_args"),
    _name("adam_betas", OPEN, _ADAM, training="optimizer_args"),
    _name("l2", OPEN, training="weight_decay"),
    _name("adam_epsilon", HF, _ADAM, training="optimizer_args"),
    _name("max_norm", OPEN, training="max_grad_norm", control="max_grad_norm"),
    _name("grad_clip", VERL, training="max_grad_norm", control="max_grad_norm"),
    _name("neftune_noise_alpha", f"{HF}, {FACTORY}", HERE_NOT_YET),
    _name("label_smoothing_factor", HF, HERE_NOT_YET),
    # The machine
    _name("bf16", f"{HF}, {TRL}, {FACTORY}, {OPEN}", _AUTOCAST, training="autocast"),
    _name("fp16", f"{HF}, {TRL}, {FACTORY}", 'a policy cannot be trained in float16; `autocast = "bfloat16"`',
        training="autocast"),
    _name("mixed_precision", "accelerate", _AUTOCAST, training="autocast"),
    _name("param_dtype", VERL, training="dtype"),
    _name("torch_dtype", HF, training="dtype", evaluate="dtype"),
    _name("model_init_kwargs", TRL, "`dtype`, `attn_implementation` and `trust_remote_code` are settings"),
    _name("flash_attn", f"{FACTORY}, {OPEN}", '"flash_attention_2", "sdpa" or "eager"', training="attn_implementation"),
    _name("use_flash_attention_2", HF, '"flash_attention_2"', training="attn_implementation"),
    _name("enable_gradient_checkpointing", VERL, training="gradient_checkpointing"),
    _name("disable_gradient_checkpointing", FACTORY, "the other way round", training="gradient_checkpointing"),
    _name("gradient_checkpointing_kwargs", HF, "kedge chooses them", training="gradient_checkpointing"),
    _name("use_liger_kernel", f"{HF}, {TRL}", "not needed: logits are made in chunks, and only where they are used"),
    _name("torch_compile", HF, HERE_NOT_YET),
    _name("tf32", HF, HERE_NOT_YET),
    _name("no_cuda", HF, '"cpu"', training="device", evaluate="device"),
    _name("use_cpu", HF, '"cpu"', training="device", evaluate="device"),
    _name("fsdp", HF, _SHARDS),
    _name("fsdp_config", HF, _SHARDS),
    _name("deepspeed", f"{HF}, {FACTORY}", _SHARDS),
    _name("zero_stage", OPEN, _SHARDS),
    _name("adam_offload", OPEN, f"{HERE_NOT_YET}: offloading; `shard = true` spreads moments over the processes"),
    _name("tensor_model_parallel_size", VERL, f"{HERE_NOT_YET}: split matrices; `shard = true` spreads weights"),
    _name("ds3_gather_for_generation", TRL, "not a setting: the engine here always does; servers do not"),
    _name("use_peft", TRL, _ADAPTER, training="adapter"),
    _name("peft_config", TRL, _ADAPTER, training="adapter"),
    _name("finetuning_type", FACTORY, '`"full"` is no table `adapter`, `"freeze"` is `num_layers_unfrozen` (in [ppo])',
        training="adapter"),
    _name("lora_r", TRL, '`adapter = { method = "lora", r = ... }`', training="adapter"),
    _name("lora_rank", f"{FACTORY}, {OPEN}, {VERL}", '`adapter = { method = "lora", r = ... }`', training="adapter"),
    _name("lora_alpha", f"{TRL}, {FACTORY}, {OPEN}, {VERL}", "a key of the table", training="adapter"),
    _name("lora_dropout", f"{TRL}, {FACTORY}", "a key of the table; PPO computes without dropout", training="adapter"),
    _name("lora_target", FACTORY, "target_modules, a key of the table", training="adapter"),
    _name("lora_target_modules", TRL, "target_modules, a key of the table", training="adapter"),
    _name("freeze_trainable_layers", FACTORY, ppo="num_layers_unfrozen"),
    _name("load_in_4bit", f"{HF}, {TRL}, {OPEN}", _QUANTISED),
    _name("load_in_8bit", f"{HF}, {TRL}", _QUANTISED),
    _name("quantization_bit", FACTORY, _QUANTISED),
    # The run
    _name("output_dir", f"{HF}, {TRL}, {FACTORY}", training="run", evaluate="run", control="run"),
    _name("save_path", OPEN, training="run"),
    _name("ckpt_path", OPEN, "checkpoints stand in the run's folder", training="run"),
    _name("default_local_dir", VERL, training="run"),
    _name("run_name", f"{HF}, {TRL}", "a folder", training="run", evaluate="run", control="run"),
    _name("exp_name", f"{TRL}, {VERL}", "a folder", training="run", evaluate="run", control="run"),
    _name("experiment_name", VERL, "a folder", training="run", evaluate="run", control="run"),
    _name("overwrite_output_dir", f"{HF}, {FACTORY}", "not a setting: `kedge ... --overwrite`"),
    _name("resume_from_checkpoint", f"{HF}, {FACTORY}", "not a setting: `kedge ... --resume`"),
    _name("load_checkpoint", OPEN, "not a setting: `kedge ... --resume`"),
    _name("save_steps", f"{HF}, {TRL}, {FACTORY}, {OPEN}", training="checkpoint_every"),
    _name("save_freq", f"{VERL}, {SB3}", training="checkpoint_every"),
    _name("save_every", OTHERS, training="checkpoint_every"),
    _name("save_strategy", HF, "in steps; 0 is none", training="checkpoint_every"),
    _name("save_total_limit", HF, "besides the best one", training="keep_last"),
    _name("max_ckpt_num", OPEN, "besides the best one", training="keep_last"),
    _name("load_best_model_at_end", HF, "the best checkpoint is `checkpoints/best`", training="best_metric"),
    _name("metric_for_best_model", HF, training="best_metric"),
    _name("greater_is_better", HF, "a minus in front of the name: the smaller the better", training="best_metric"),
    _name("eval_steps", f"{HF}, {TRL}, {FACTORY}, {OPEN}", training="eval_every"),
    _name("eval_freq", SB3, training="eval_every"),
    _name("test_freq", VERL, training="eval_every"),
    _name("eval_strategy", HF, "in steps; 0 is before and after", training="eval_every"),
    _name("evaluation_strategy", HF, "in steps; 0 is before and after", training="eval_every"),
    _name("eval_delay", HF, f"{HERE_NOT_YET}: the first evaluation is before the first step"),
    _name("logging_steps", f"{HF}, {TRL}, {FACTORY}, {OPEN}", _EVERY_STEP),
    _name("logging_strategy", HF, _EVERY_STEP),
    _name("logging_first_step", HF, _EVERY_STEP),
    _name("log_interval", SB3, _EVERY_STEP),
    _name("logging_dir", HF, "trackers write into the run's folder", training="report_to"),
    _name("tensorboard_log", SB3, '"tensorboard"', training="report_to"),
    _name("use_wandb", OPEN, '"wandb"', training="report_to"),
    _name("wandb_project", OPEN, '"wandb"; the variable WANDB_PROJECT names the project', training="report_to"),
    _name("use_tensorboard", OPEN, '"tensorboard"', training="report_to"),
    _name("log_with", TRL, training="report_to"),
    _name("logger", VERL, training="report_to"),
    _name("plot_loss", FACTORY, "not a setting: metrics.jsonl, or a tracker", training="report_to"),
    _name("verbose", SB3, "not a setting: the live view is there in a terminal"),
    _name("data_seed", HF, training="seed"),
    _name("push_to_hub", f"{HF}, {TRL}", _HUB),
    _name("hub_model_id", f"{HF}, {TRL}", _HUB),
    _name("stage", FACTORY, _COMMAND),
    _name("do_train", f"{HF}, {FACTORY}", _COMMAND),
    _name("do_eval", f"{HF}, {FACTORY}", "not a setting: held-out rows are evaluated where there are some"),
    # Control tasks
    _name("env_id", f"CleanRL, {SB3}", control="env"),
    _name("net_arch", SB3, control="hidden_sizes"),
    _name("policy_kwargs", SB3, "`hidden_sizes`, `activation` and `log_std_init` are settings", control="hidden_sizes"),
    _name("activation_fn", SB3, control="activation"),
    _name("normalize", "RL Zoo", "and `normalize_rewards`", control="normalize_observations"),
    _name("norm_obs", SB3, control="normalize_observations"),
    _name("norm_reward", SB3, control="normalize_rewards"),
    _name("anneal_lr", "CleanRL", '"linear"', control="learning_rate_schedule"),
    _name("num_envs", "CleanRL", control="n_envs"),
    _name("num_steps", "CleanRL", ppo="batch_size", control="n_steps"),
    _name("update_epochs", "CleanRL", ppo="num_ppo_epochs", control="n_epochs"),
    _name("use_sde", SB3, f"{HERE_NOT_YET}: state-dependent exploration"),
)  # fmt: skip

OWN: tuple[Name, ...] = (
    _name("policy", "kedge", sft="model", reward="model", ppo="policy"),
    _name("model", "kedge", sft="model", reward="model", ppo="policy"),
    _name("data", "kedge", sft="data", reward="data", ppo="prompts"),
    _name("prompts", "kedge", sft="data", reward="data", ppo="prompts"),
    _name("eval_data", "kedge", sft="eval_data", reward="eval_data", ppo="eval_prompts"),
    _name("eval_prompts", "kedge", sft="eval_data", reward="eval_data", ppo="eval_prompts"),
    _name("steps", "kedge", "passes over the data, not steps", sft="epochs", reward="epochs"),
    _name("epochs", "kedge", "rollouts of batch_size prompts, not passes over them", ppo="steps"),
    _name("reward", "kedge", ppo="reward"),
    _name("metrics", "kedge", ppo="metrics"),
    *(
        _name(each, "kedge", ppo=each)
        for each in (
            "kl_coef", "kl_in", "kl_controller", "target_kl", "response_length", "temperature", "num_generations",
            "mini_batch_size", "num_ppo_epochs", "critic", "advantage_estimator", "cutoff", "guards",
        )
    ),
    *(
        _name(each, "kedge", training=each)
        for each in ("tokenizer", "columns", "eval_size", "run", "resume", "overwrite")
    ),
)  # fmt: skip
"""Names of kedge's own that stand in another table, or beside a config in Python."""

_BY_NAME = {name.theirs: name for name in (*NAMES, *OWN)}

TABLES: Mapping[str, str] = {
    "grpo": 'GRPO is [ppo] with advantage_estimator = "grpo" and num_generations = 8',
    "rloo": 'RLOO is [ppo] with advantage_estimator = "rloo" and num_generations = 4',
    "rm": "a reward model's table is [reward]",
    "reward_model": "a reward model's table is [reward]",
    "eval": "the table of `kedge evaluate` is [evaluate]",
    "dpo": f"DPO is {HERE_NOT_YET}; preferences train a [reward] model, and [ppo] a policy against it",
    "kto": f"KTO is {HERE_NOT_YET}; unpaired labels train a [reward] model, and [ppo] a policy against it",
    **dict.fromkeys(
        ("actor_rollout_ref", "algorithm", "trainer", "critic"),
        f"verl's; kedge's settings of all of them stand in [ppo], see {PAGE}",
    ),
}
"""What users call a recipe's table, and what to write instead."""


def elsewhere(key: str, stage: str, settings: Container[str]) -> str | None:
    """What to tell who writes ``key`` in ``[stage]``; None where no library that is known calls a setting so.

    ``settings`` are the keys there are. From Python, models, data and run are arguments beside them.
    """
    name = _BY_NAME.get(key)
    if name is None:
        return None
    ours = name.ours.get(stage)
    if ours == key:
        return "an argument of the trainer and no setting"
    if ours is not None:
        argument = "" if ours in settings else ", an argument of the trainer and no setting"
        return f"kedge's name for it is {ours!r}{argument}" + (f" ({name.note})" if name.note else "")
    if not name.ours:
        return name.note
    where = ", ".join(f"{key!r} in [{stage}]" for stage, key in name.ours.items())
    note = f" ({name.note})" if name.note else ""
    return f"no setting of [{stage}]; kedge has {where}{note}"


def coming_from() -> str:
    """The table as a page of the documentation."""
    lines = [
        "<!-- Made from src/kedge/config/names.py by `make pages`. -->",
        "# Coming from elsewhere",
        "",
        "What settings of other libraries are called here. Names that kedge shares with TRL's PPO and transformers"
        " (`learning_rate`,",
        "`kl_coef`, `num_generations`, `weight_decay`, `report_to`, ...) and, for control tasks, with Stable-Baselines3"
        " are not listed. A recipe or a",
        "config that has one of the names below is told kedge's. `kedge settings` prints every setting"
        " ([settings](settings.md)).",
        "",
        "| theirs | whose | kedge's | |",
        "| --- | --- | --- | --- |",
    ]
    for name in sorted(NAMES, key=lambda name: name.theirs):
        lines.append(f"| `{name.theirs}` | {name.libraries} | {_where(name.ours)} | {name.note.replace('|', '/')} |")
    lines += ["", "Tables of a recipe:", "", "| theirs | |", "| --- | --- |"]
    lines += [f"| `[{table}]` | {what} |" for table, what in TABLES.items()]
    return "\n".join(lines) + "\n"


def _where(ours: Mapping[str, str]) -> str:
    """``key`` in which tables; one key of all that train stands alone."""
    stages: dict[str, list[str]] = {}
    for stage, key in ours.items():
        stages.setdefault(key, []).append(stage)
    return "; ".join(
        f"`{key}`" + (f" ({', '.join(where)})" if len(stages) > 1 or not {"sft", "reward", "ppo"} <= {*where} else "")
        for key, where in stages.items()
    )

"""What the tests share: the real data beside the project, a tokenizer built on the spot, and tiny random models."""

import gc
import json
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import tokenizers
import torch
import transformers
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from kedge import cli
from kedge.inspection import machine
from kedge.models.language_model import LanguageModel, load_language_model, wrap
from kedge.tasks.starting import new_desk
from kedge.training.ppo.throughput import SIDE

SIDE["cpu"] = 64  # nobody here asks how fast the machine is, and each trainer would measure it
machine.SHARE = 2**62  # nor does a plan's time matter: no operation is tried for it
torch.set_num_threads(1)  # the tensors are tiny: two threads spend their time waiting for each other

SPECIAL = ["<pad>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
CORPUS = ["the cat sat on the mat and the dog ran to the red house", "Once upon a time there was a little ship."] * 3
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 320
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
_SOFT = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6}
CONFIGS = {
    "llama": _COMMON,
    "qwen2": _COMMON,
    "qwen3": _COMMON | {"head_dim": 8},
    "mistral": _COMMON | {"sliding_window": 6},
    "gemma2": _COMMON | _SOFT,
    "gemma3_text": _COMMON | _SOFT | {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": _IDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"},
    "phi3": _COMMON,
    "olmo2": _COMMON,
    "mamba": _IDS | {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2},  # no attention, no KV cache
    "lfm2": _COMMON | {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},  # a mixed cache
    "kedge_lstm": _IDS | {"hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 1.0},  # our own
}


def pytest_collection_finish():
    """What is imported and collected lives to the end: whoever collects garbage need not walk through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def kedge(monkeypatch, capsys):
    """``kedge("plan", path)``: its exit status, and what it said on either side."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["kedge", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def lines():
    """``lines(run, "metrics.jsonl")``: what the file says, without what the clock says."""

    def read(run, name):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        return [
            {key: value for key, value in row.items() if not key.startswith(("time/", "throughput/"))} for row in rows
        ]

    return read


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and models."""
    folder = Path(os.environ.get("KEDGE_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "models").is_dir():
        say = pytest.fail if os.environ.get("CI") else pytest.skip
        say(f"{folder}: the real data and models are not there; set KEDGE_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def stories(shared):
    """The pretrained story model; shared by all tests, so train a ``fresh_stories()`` instead."""
    return load_language_model(shared / "models/stories260K", stop_tokens=["<s>"], device="cpu")


@pytest.fixture(scope="session")
def fresh_stories(shared):
    """Loads the story model anew, to be trained or bent."""
    return lambda: load_language_model(shared / "models/stories260K", stop_tokens=["<s>"], device="cpu")


@pytest.fixture(scope="session")
def processes():
    """Begins processes with everything imported, and with no thread of this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["kedge.training.ppo", "kedge.training.sft", "kedge.training.reward_modeling"])
        first = context.Process(target=time.sleep, args=(0,))  # the imports are no part of a run
        first.start()
        first.join()
    return context


@pytest.fixture(scope="session")
def desk(worker_id, tmp_path_factory):
    """What ``kedge new desk`` writes, once for all workers; to be copied."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "desk"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            new_desk(folder)
    return folder


@pytest.fixture
def gpt2_tokenizer(shared):
    """One special token for everything and no pad token, no chat template."""
    return AutoTokenizer.from_pretrained(shared / "models/gpt2-tokenizer")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Byte-level BPE of 300 tokens: any text goes in and comes out, pad 0 and EOS 1 are distinct, no BOS."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tiny_lm(tiny_tokenizer):
    """``tiny_lm(architecture)``: a new random model, the same one every time, sharp enough to be told from another."""

    def make(name: str, *, tokenizer=tiny_tokenizer, seed: int = 0, **settings) -> LanguageModel:
        config = AutoConfig.for_model(name, **(CONFIGS[name] | settings))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(2)
        return wrap(model, tokenizer)

    return make


@pytest.fixture(params=list(CONFIGS))
def arch(request):
    """Every tiny architecture in turn."""
    return request.param


class Scripted(torch.nn.Module):
    """A causal model that answers a prompt of ``prompt`` tokens with ``ids``, whatever the prompt says."""

    def __init__(self, prompt: int, ids: list[int], vocabulary: int) -> None:
        super().__init__()
        self.prompt, self.ids, self.vocabulary = prompt, ids, vocabulary
        self.config = transformers.LlamaConfig(vocab_size=vocabulary)
        self.device = torch.device("cpu")

    @property
    def base_model(self):
        return self

    def get_output_embeddings(self):
        return None

    def get_input_embeddings(self):
        return SimpleNamespace(weight=torch.empty(self.vocabulary, 1))

    def forward(self, input_ids, past_key_values=None, use_cache=False):
        logits = torch.full((*input_ids.shape, self.vocabulary), -1e4)
        for column in range(self.prompt - 1, input_ids.shape[1]):
            at = column - self.prompt + 1
            logits[:, column, self.ids[at] if at < len(self.ids) else 1] = 1e4
        return SimpleNamespace(logits=logits)


@pytest.fixture
def scripted(tiny_tokenizer):
    """``scripted(prompt, text)``: a language model that writes ``text`` (or these ids) and then the EOS."""

    def make(prompt: list[int], answer: str | list[int]) -> LanguageModel:
        ids = tiny_tokenizer(answer).input_ids if isinstance(answer, str) else answer
        return LanguageModel(Scripted(len(prompt), ids, VOCABULARY), tiny_tokenizer, (1,))

    return make


@pytest.fixture
def offline_trackers(monkeypatch):
    """Weights & Biases stays on this machine, and TensorBoard's files of one second sort as they were begun."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(100))

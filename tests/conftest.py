"""What many tests share: a PostgreSQL and a Redis of their own, tiny models; each made once per session."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from service.data import prompts
from service.llm.frozen import FrozenModel
from service.records import Item
from tests.forks import Forks
from tests.servers import NotHere, moto_server, postgres, redis_server, seaweedfs_server

SHARED_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


_LONG = ("e2e", "torture", "exactness", "history", "building")  # folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that of two test processes neither ends long before the other. Without a GPU, `gpu` is skipped."""
    items.sort(key=lambda item: item.path.parent.name not in _LONG)
    if torch.cuda.is_available():
        return
    without = pytest.mark.skip(reason=f"needs a GPU: torch {torch.__version__} sees none here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(without)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A URL of an empty PostgreSQL database, which ends with the session."""
    try:
        with postgres() as url:
            yield url
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def new_database(postgres_url: str) -> Callable[[], AbstractContextManager[str]]:
    """Opens an empty database of that server under a new name, by its URL, and drops it in the end."""

    @contextmanager
    def opened() -> Iterator[str]:
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            yield postgres_url.replace("/postgres?", f"/{name}?")
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    return opened


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A URL of an empty Redis without persistence, which ends with the session."""
    try:
        with redis_server(tmp_path_factory.mktemp("redis")) as url:
            yield url
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The URL of a moto server, which ends with the session."""
    try:
        with moto_server() as url:
            yield url
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def seaweedfs_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS, which ends with the session."""
    try:
        with seaweedfs_server(tmp_path_factory.mktemp("seaweedfs")) as url:
            yield url
    except NotHere as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Where commands of the command line are begun without the seconds that a fresh interpreter takes to import."""
    with Forks() as opened:
        yield opened


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data sets, which is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets are not here (looked for ../shared/data beside the repository)")
    return SHARED_DATA


# Tiny models

settings.register_profile("lethe", deadline=None)  # a busy machine is no failure
settings.load_profile("lethe")

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # ten times the usual: scores of different prompts are to differ visibly
    "tie_word_embeddings": False,
}
_GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.2}

# Encoder–decoder models, of more layers in the decoder than in the encoder, so that nobody takes the one for the other.
_T5_SIZES = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 32,
    "initializer_factor": 1.4,
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "initializer_factor": 0.7}
_BART_SIZES = {
    "d_model": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "max_position_embeddings": 512,
    "init_std": 0.2,
}
ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", _T5_SIZES),
    "flan-t5": ("t5", {**_T5_SIZES, **_GATED}),
    "bart": ("bart", _BART_SIZES),
}


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # also for what is made before the first test


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # For each test: commands that run in this process set the number that their options name.
    torch.set_num_threads(1)


# In the long run all; in the quick one a plain one, one that normalizes what it compares, and one of another family.
QUICK = ("llama", "qwen3", "gpt2")


@pytest.fixture(params=[pytest.param(a, marks=[] if a in QUICK else pytest.mark.thorough) for a in ARCHITECTURES])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ENCODER_DECODERS)
def encoder_decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function: architecture, changed configuration fields -> folder of a random model of it with a tokenizer."""
    made: dict[tuple[object, ...], Path] = {}

    def folder_of(architecture: str, vocabulary: int = 480, **changed: Any) -> Path:
        key = (architecture, vocabulary, *sorted(changed.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"tiny-{architecture}")
            if architecture in ENCODER_DECODERS:
                save_tiny_encoder_decoder(made[key], architecture, vocabulary, changed)
            else:
                save_tiny_model(made[key], architecture, tiny_tokenizer(vocabulary), changed)
        return made[key]

    return folder_of


@pytest.fixture(scope="session")
def random_adapter() -> Callable[..., dict[str, torch.Tensor]]:
    """A function: model, target names, rank, seed -> a LoRA of random A and B as PEFT names its tensors."""

    def adapter_of(model: torch.nn.Module, targets: Sequence[str], rank: int, seed: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in targets:
                transposed = type(module).__name__ == "Conv1D"  # GPT-2 stores (d_in, d_out)
                d_out, d_in = module.weight.T.shape if transposed else module.weight.shape
                tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, d_in, generator=random) / 5
                tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(d_out, rank, generator=random) / 5
        return tensors

    return adapter_of


@pytest.fixture(scope="session")
def merged_model() -> Callable[..., FrozenModel]:
    """The slow, obvious mixture: frozen model, adapters, scaling, one row's weights, level -> a model that holds it."""

    def merged(
        frozen: FrozenModel, adapters: Sequence[dict[str, torch.Tensor]], scaling: float, w: list[float], level: str
    ) -> FrozenModel:
        model = copy.deepcopy(frozen.model)
        for name, module in model.named_modules():
            if f"base_model.model.{name}.lora_A.weight" in adapters[0]:
                a = [adapter[f"base_model.model.{name}.lora_A.weight"] for adapter in adapters]
                b = [adapter[f"base_model.model.{name}.lora_B.weight"] for adapter in adapters]
                delta = scaling * _mixed_product(w, a, b, level)
                module.weight += delta.T if type(module).__name__ == "Conv1D" else delta
        return FrozenModel(frozen.spec, model, frozen.tokenizer)

    return merged


def _mixed_product(w: list[float], a: list[torch.Tensor], b: list[torch.Tensor], level: str) -> torch.Tensor:
    if level == "ND":  # eq. 6
        return sum((w_k * (b_k @ a_k) for w_k, a_k, b_k in zip(w, a, b, strict=True)), torch.zeros(()))
    mean_b = sum((w_k * b_k for w_k, b_k in zip(w, b, strict=True)), torch.zeros(()))  # eq. 5
    mean_a = sum((w_k * a_k for w_k, a_k in zip(w, a, strict=True)), torch.zeros(()))
    return mean_b @ mean_a


def save_tiny_model(
    folder: Path, architecture: str, tokenizer: PreTrainedTokenizerFast, changed: dict[str, Any]
) -> None:
    sizes = _GPT2_SIZES if architecture == "gpt2" else _SIZES
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(architecture, **{**sizes, "vocab_size": len(tokenizer), **ids, **changed})
    torch.manual_seed(20240)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tiny_encoder_decoder(folder: Path, architecture: str, vocabulary: int, changed: dict[str, Any]) -> None:
    kind, sizes = ENCODER_DECODERS[architecture]
    tokenizer = bart_tokenizer(vocabulary) if kind == "bart" else t5_tokenizer(vocabulary)
    start = tokenizer.eos_token_id if kind == "bart" else tokenizer.pad_token_id
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": start,
        "forced_eos_token_id": None,
    }
    config = AutoConfig.for_model(kind, **{**sizes, "vocab_size": len(tokenizer), **ids, **changed})
    torch.manual_seed(20240)
    model = AutoModelForSeq2SeqLM.from_config(config)
    if kind == "bart":  # of a fresh model it is zero, which no formula could get wrong
        model.final_logits_bias.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bart_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """As the causal models have it, but with a token before every text and one after it."""
    fast = tiny_tokenizer(vocabulary)
    fast.add_special_tokens({"bos_token": "<start>"})
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[(name, fast.convert_tokens_to_ids(name)) for name in ("<start>", "<end>")],
    )
    return fast


def t5_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words begin with a mark of their own, line feeds are spaces, and what no piece spells is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    letters = [chr(code) for code in range(33, 127)]
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(_prompt_texts(), trainer)
    closed = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", special.index("</s>"))])
    tokenizer.post_processor = closed
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _prompt_texts() -> list[str]:
    item = Item("1", "Film (1999)", 1999, ("Drama",))
    texts = [prompts.context_text((), "movie"), prompts.question_text(item, "movie"), prompts.item_text(item)]
    return [*texts, *prompts.ANSWERS * 9]


def tiny_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    # It knows the prompts' own words; everything else it spells in bytes.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_prompt_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")

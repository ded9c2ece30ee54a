"""Settings are right from the start, or nothing starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.config import load_settings
from service.errors import InvalidSetting
from service.records import BuildConfig

READ_IN_A_CHILD = "from service.config import load_settings; print(load_settings().model_dump_json())"


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("LETHE_")}


def read_in_a_child(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", READ_IN_A_CHILD], env=environment, capture_output=True, text=True, check=False
    )


def test_without_any_setting_the_defaults_are_those_of_a_build() -> None:
    assert load_settings().build_config() == BuildConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("adapt_from_layer", -1),
        ("epochs", "many"),
        ("tau", -1),
        ("learning_rate", float("nan")),
        ("partition", "kmeans"),
        ("level", "X"),
        ("port", 70_000),
        ("device", "tpu"),
        ("log_level", "LOUD"),
        ("lora_targets", " , "),
        ("secret", "short"),
        ("validation_percent", 91),
        ("max_body_bytes", 10),
        ("root_path", "lethe"),
        ("root_path", "/lethe?x"),
        ("root_path", "https://example.org/lethe"),
        ("open", "maybe"),
        ("deletions_per_minute", 0),
        ("audit_days", 0),
        ("impressions_days", -1),
        ("store_url", "s3://key:hunter2@bucket/prefix"),
        ("store_url", "/srv/store"),
        ("store_cache_bytes", -1),
        ("store_copies", "maybe"),
        ("store_encryption", "yes"),
        ("store_key", "0f" * 31),
    ],
)
def test_a_wrong_value_is_refused_by_its_variable_and_not_repeated(name: str, value: object) -> None:
    with pytest.raises(InvalidSetting, match=f"LETHE_{name.upper()}: ") as refused:
        load_settings(**{name: value})
    if isinstance(value, str) and value.strip(" ,"):
        assert value not in str(refused.value)


OIDC = {
    "oidc_jwks_url": "https://id.example/jwks",
    "oidc_issuer": "https://id.example",
    "oidc_audience": "lethe",
}


@pytest.mark.parametrize("missing", OIDC)
def test_a_token_is_checked_whole_or_not_at_all(missing: str) -> None:
    assert load_settings(**OIDC).oidc_audience == "lethe"
    with pytest.raises(InvalidSetting, match="belong together"):
        load_settings(**{name: value for name, value in OIDC.items() if name != missing})


def test_keys_of_an_identity_provider_come_over_a_line_that_nobody_can_change() -> None:
    load_settings(**{**OIDC, "oidc_jwks_url": "http://127.0.0.1:9/jwks"})
    with pytest.raises(InvalidSetting, match="https"):
        load_settings(**{**OIDC, "oidc_jwks_url": "http://id.example/jwks"})


HOOK = {"webhook_url": "https://hooks.example/lethe", "webhook_secret": f"whsec_{'A' * 32}"}


def test_notifications_go_to_one_place_signed() -> None:
    assert load_settings(**HOOK).webhook_key() == bytes(24)
    for name, value in HOOK.items():
        with pytest.raises(InvalidSetting, match="belong together"):
            load_settings(**{name: value})
    for secret in ("A" * 32, "whsec_", f"whsec_{'A' * 31}", f"whsec_{'A' * 28}", f"whsec_{'A' * 88}", "whsec_ä"):
        with pytest.raises(InvalidSetting, match="24 to 64 random bytes"):
            load_settings(**{**HOOK, "webhook_secret": secret})


@pytest.mark.parametrize(
    "url", ["hooks.example", "ftp://hooks.example", "https://", "https://ann:pw@hooks.example", "https://h.example/#a"]
)
def test_a_place_that_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="webhook_url must be https"):
        load_settings(**{**HOOK, "webhook_url": url})


def test_a_line_that_others_can_read_is_for_private_networks() -> None:
    plain = {**HOOK, "webhook_url": "http://hooks.example/"}
    with pytest.raises(InvalidSetting, match="webhook_allow_private"):
        load_settings(**plain)
    assert load_settings(**plain, webhook_allow_private=True).webhook_url == plain["webhook_url"]


def test_a_prefix_may_end_in_a_slash() -> None:
    assert load_settings(root_path="/a/lethe/").root_path == "/a/lethe"
    assert load_settings(root_path="/").root_path == ""
    assert load_settings().root_path == ""


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(InvalidSetting, match=r"LETHE_EPOCHS: .*; LETHE_TAU: "):
        load_settings(epochs=0, tau=-1)


def test_a_person_must_fit_into_a_shard() -> None:
    with pytest.raises(InvalidSetting, match=r"samples_per_user \(20\) exceeds max_shard_size \(10\)"):
        load_settings(samples_per_user=20, max_shard_size=10)
    assert load_settings(samples_per_user=20, max_shard_size=10, unit="sample").max_shard_size == 10


def test_what_is_not_given_keeps_its_default() -> None:
    assert load_settings(epochs=None, tau=3).build_config() == BuildConfig(tau=3)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().epochs = 4  # type: ignore[misc] # that it cannot be assigned is the promise


def test_a_child_process_reads_the_same_settings(tmp_path: Path) -> None:
    given = load_settings(
        home=tmp_path,
        secret="sixteen or more characters",
        redis_url="redis://127.0.0.1:1/0",
        lora_targets="q_proj,v_proj,o_proj",
        learning_rate=1e-5,
        tau=0.1 + 0.2,
        partition="random",
        epochs=9,
    )
    child = read_in_a_child({**plain_environment(), **_own(given.environment())})
    assert child.stderr == ""
    assert json.loads(child.stdout) == json.loads(given.model_dump_json())


def _own(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("LETHE_")}


SECRETS = {
    "secret": "sixteen or more characters",
    "database_url": "postgresql+psycopg://lethe:password@localhost/lethe",
    "redis_url": "redis://:password@localhost/0",
    "stream_url": "redis://:another-password@localhost/1",
    "retired_secrets": "an earlier one, another",
    "store_key": "0f" * 32,
}


def in_files(folder: Path) -> dict[str, str]:
    for name, value in SECRETS.items():
        (folder / name).write_text(f"{value}\n")
    return {f"LETHE_{name.upper()}_FILE": str(folder / name) for name in SECRETS}


def test_every_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    read = json.loads(read_in_a_child({**plain_environment(), **in_files(tmp_path)}).stdout)
    expected: dict[str, object] = {**SECRETS, "retired_secrets": ["an earlier one", "another"]}
    assert {name: read[name] for name in SECRETS} == expected


def test_what_lies_in_a_file_is_not_shown_in_the_environment_of_a_child(tmp_path: Path) -> None:
    code = "import json; from service.config import load_settings; print(json.dumps(load_settings().environment()))"
    environment = {**plain_environment(), **in_files(tmp_path)}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    passed_on = _own(json.loads(child.stdout))
    assert not set(SECRETS.values()) & set(passed_on.values())
    again = json.loads(read_in_a_child({**plain_environment(), **passed_on}).stdout)
    assert again["secret"] == SECRETS["secret"]


@pytest.mark.parametrize("variable", ["LETHE_STORE_KEY", "LETHE_STORE_KEY_FILE"])
def test_what_wraps_a_stores_keys_is_withheld_from_processes_that_are_begun_later(variable: str) -> None:
    code = (
        "import subprocess, sys; from service.config import withhold_store_key; withhold_store_key();"
        "subprocess.run([sys.executable, '-c', 'import os; print(sorted(os.environ))'])"
    )
    environment = {**plain_environment(), variable: "0f" * 32, "LETHE_SECRET": SECRETS["secret"]}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert variable not in child.stdout
    assert "LETHE_SECRET" in child.stdout


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_that_holds_no_secret_is_refused_by_its_variable(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    child = read_in_a_child({**plain_environment(), "LETHE_SECRET_FILE": str(path)})
    assert "InvalidSetting: LETHE_SECRET_FILE: the file " in child.stderr


def test_a_secret_is_given_once(tmp_path: Path) -> None:
    environment = {**plain_environment(), **in_files(tmp_path), "LETHE_SECRET": SECRETS["secret"]}
    child = read_in_a_child(environment)
    assert "both LETHE_SECRET and LETHE_SECRET_FILE are set" in child.stderr
    assert SECRETS["secret"] not in child.stderr


@pytest.mark.parametrize("name", ["LETHE_EPOCH", "LETHE_", "LETHE_HOMES"])
def test_a_variable_that_names_no_setting_is_refused(name: str) -> None:
    child = read_in_a_child({**plain_environment(), name: "3"})
    assert child.returncode != 0
    assert f"InvalidSetting: unknown settings in the environment: {name};" in child.stderr


def test_scoring_leaves_a_core_to_everything_else_unless_told() -> None:
    settings = load_settings()
    assert settings.scoring_threads() == max(1, settings.cores() - 1)
    assert load_settings(threads=3).scoring_threads() == 3

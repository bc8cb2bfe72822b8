"""Keys and offline switches: seen, never shown."""

import pytest
from huggingface_hub import constants
from sites import rows

from actionkit.doctor import services

KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_not_logged_in():
    (row,) = rows(services.wandb)
    assert row.text.endswith("not logged in to api.wandb.ai; before logging there: wandb login")


@pytest.mark.parametrize(("variables", "words"), [
    ({"WANDB_API_KEY": KEY}, "WANDB_API_KEY is set"),
    ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "WANDB_MODE is offline"),
])  # fmt: skip
def test_a_key_in_the_environment_is_never_shown(monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (row,) = rows(services.wandb)
    assert row.text.endswith(words)
    assert KEY not in str(row)


def test_a_login_is_that_of_the_server_in_use(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (row,) = rows(services.wandb)
    assert row.text.endswith("logged in to api.wandb.ai")
    assert "not logged" not in row.text
    assert KEY not in str(row)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    (row,) = rows(services.wandb)
    assert "not logged in to wandb.example.org" in row.text
    (tmp_path / "netrc").write_text("machine machine machine")  # not its syntax
    assert "not logged in" in rows(services.wandb)[0].text


def test_pretrained_weights_offline_and_none_stored_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert rows(services.weights)[0][1:3] == ("ok", f"0 models in {tmp_path}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (row,) = rows(services.weights)
    assert row.state == "warning"
    assert row.cure.startswith("unset HF_HUB_OFFLINE")
    (tmp_path / "models--timm--resnet18").mkdir()
    assert rows(services.weights)[0][1:3] == ("ok", f"1 model in {tmp_path}, offline")

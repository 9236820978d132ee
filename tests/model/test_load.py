"""Loading: what loads the same way, and every broken or foreign thing refused in clear words."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from labkit.base.device import resolve_device
from labkit.errors import DeviceError, LabkitError, ModelError, ParameterError
from labkit.model import gguf_file
from labkit.model.load import default_gguf, load
from labkit.model.shapes import expected_shapes
from labkit.model.weight_files import whole_weight_files
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "model")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_directory_loads_with_its_tokenizer(saved):
    model = load(saved, "cpu")
    assert model.name == saved.name
    assert model.source is None
    assert model.decoder.embed_tokens.weight is model.decoder.lm_head.weight
    text = "Hello, limits."
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    described = model.describe()
    assert described["weight_bytes"] == 4 * described["parameters"]


def test_dtypes(saved):
    assert load(saved, "cpu", "bfloat16").decoder.dtype == torch.bfloat16


@pytest.mark.model
def test_the_default_model_is_the_packages_gguf_converted_once(real_model):
    assert real_model.source == default_gguf()
    again = load(None, "cpu")
    assert again.directory == real_model.directory
    assert real_model.config.layers == 30


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-model", "no model at 'no-such-model'; allowed: smollm2"),
        ("./missing/folder", "no model at"),
        ("missing.gguf", "no model at"),
        ("a/b/c", "no model at"),
    ],
)
def test_unknown_models_are_refused(name, words):
    with pytest.raises(ModelError, match=words):
        load(name)


def test_a_hub_model_without_network_says_so(tmp_path):
    code = (
        "from labkit.model.load import load\nfrom labkit.errors import ModelError\n"
        "try:\n    load('some-org/some-model')\nexcept ModelError as error:\n    print(error)"
    )
    given = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True
    )
    assert "neither on this machine nor could the hub be reached" in done.stdout


def test_an_unsupported_family_names_the_supported_ones(model):
    change_config(model, model_type="gpt2")
    with pytest.raises(ModelError, match=r"'gpt2' is not supported; supported: gemma3_text"):
        load(model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "mscale"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks factor"),
        ({"tie_word_embeddings": "false"}, "must be true or false; it is 'false'"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers must be a whole number from 1"),
        ({"num_hidden_layers": 4000}, "4,000 layers in the config, but"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"rope_parameters": {"rope_theta": 1.8e-43}}, "rope_theta must lie above 1"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number"),
        ({"num_attention_heads": "many"}, "not a readable model config"),
    ],
)
def test_configs_we_do_not_compute_are_refused(model, changes, words):
    change_config(model, **changes)
    with pytest.raises(ModelError, match=words):
        load(model)


def test_a_directory_without_a_config_or_with_a_broken_one(model):
    (model / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config"):
        load(model)
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config.json"):
        load(model)


def test_a_directory_without_weights(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*.safetensors"):
        load(model)


def test_pickles_are_never_read(model):
    (model / "model.safetensors").unlink()
    (model / "pytest_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ModelError, match="pickled weights can run code and are never read"):
        load(model)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_safetensors_file(model, share):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match="cut short or damaged"):
        load(model)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_are_not_the_configs(model, change):
    path = model / "model.safetensors"
    weights = load_file(path)
    if change == "missing":
        del weights["model.layers.1.mlp.up_proj.weight"]
    elif change == "extra":
        weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2, 2)
    else:
        weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, path, metadata={"format": "pt"})
    words = {
        "missing": "lack 1 tensors",
        "extra": "1 tensors are not the model's",
        "shape": r"has shape \(3, 3\)",
    }
    with pytest.raises(ModelError, match=words[change]):
        load(model)


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ModelError, match="neither a model directory nor a .gguf file"):
        load(path)


@pytest.mark.parametrize("size", [0, 3, 1000, 5_000_000])
def test_a_truncated_gguf_file(tmp_path, own_cache, size):
    path = tmp_path / "cut.gguf"
    with default_gguf().open("rb") as whole:
        path.write_bytes(whole.read(size))
    with pytest.raises(ModelError, match="cut"):
        load(path)
    assert not list(own_cache.rglob("config.json"))


def test_a_conversion_that_is_cut_off_leaves_nothing_that_loads(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "copy.gguf"
    shutil.copy(default_gguf(), path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_file, "save_one_by_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(path)
    assert not list(own_cache.rglob("*.safetensors"))


def test_a_conversion_without_room_says_where_and_what_to_do(own_cache, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(gguf_file, "save_one_by_one", full)
    with pytest.raises(ModelError, match="No space left on device.*set LABKIT_CACHE"):
        load(None)
    assert not list(own_cache.rglob("*.safetensors"))


def test_a_cache_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "file" / "kept"))
    with pytest.raises(LabkitError, match="cannot be made.*Set LABKIT_CACHE"):
        load(None)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_before_a_run_headers_are_enough_to_see_a_cut(model, share):
    path = model / "model.safetensors"
    assert whole_weight_files(model) == [path]
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match="cut short or damaged"):
        whole_weight_files(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(saved):
    with pytest.raises(DeviceError, match="'cuda' was asked for, but torch sees only: cpu"):
        load(saved, "cuda")


def test_unknown_devices_and_dtypes(saved):
    with pytest.raises(DeviceError, match="'tpu' is unknown; allowed: auto"):
        load(saved, "tpu")
    with pytest.raises(ParameterError, match="'int3' is unknown; allowed: float32"):
        load(saved, "cpu", "int3")
    assert issubclass(DeviceError, LabkitError)


def test_auto_takes_the_best_there_is():
    expected = next(
        d for d, there in (
            ("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()),
            ("cpu", True),
        ) if there
    )  # fmt: skip
    assert resolve_device("auto").type == expected


def test_the_weights_that_are_expected_are_the_decoders(tiny):
    decoder = tiny.model.decoder
    theirs = {name: tuple(one.shape) for name, one in decoder.named_parameters()}
    assert expected_shapes(decoder.config) == theirs

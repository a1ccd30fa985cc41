"""Checkpoints of others: what training scripts put around a state dict is taken off; a tied weight may stand once."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from transformers import GPT2Config, GPT2LMHeadModel

from glasslib.captioning.decoder import CaptionDecoder, load_published
from glasslib.captioning.mapper import MlpMapper
from glasslib.generators import gpt2
from glasslib.generators.stylegan2.generator import StyleGAN2Generator
from glasslib.tinyworld.models import WEIGHTS
from glasslib.weights.language import load_language_model

trained = pytest.mark.skipif(not (WEIGHTS / "gpt2" / "model.safetensors").exists(), reason="run: make tinyworld")
HEAD = "gpt.lm_head.weight"


def new_decoder(seed: int = 0) -> CaptionDecoder:
    torch.manual_seed(seed)
    sizes = {"n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    gpt = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    return CaptionDecoder(gpt, MlpMapper(embedding_dim=8, gpt_dim=16, prefix_length=4))


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


WRAPPED = {
    "plain": lambda state: state,
    "DataParallel": lambda state: prefixed("module.", state),
    "torch.compile": lambda state: prefixed("_orig_mod.", state),
    "both": lambda state: prefixed("module._orig_mod.", state),
    "a compiled part": lambda state: {key.replace("gpt.", "gpt._orig_mod."): value for key, value in state.items()},
    "state_dict": lambda state: {"state_dict": prefixed("model.", state), "epoch": 3},
    "model": lambda state: {"model": state, "epoch": 1},
    "nested twice": lambda state: {"model": {"state_dict": state}, "args": [1, 2]},
    "without the tied head": lambda state: {key: value for key, value in state.items() if key != HEAD},
    "without the tied words": lambda state: {k: v for k, v in state.items() if not k.endswith("wte.weight")},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_checkpoint_is_loaded(tmp_path, name):
    whole = {key: value.clone() for key, value in new_decoder().state_dict().items()}
    torch.save(WRAPPED[name](whole), tmp_path / "x.pt")
    found = load_published(new_decoder(seed=1), tmp_path / "x.pt")
    assert all(torch.equal(found.state_dict()[key], whole[key]) for key in whole)
    assert found.gpt.lm_head.weight is found.gpt.transformer.wte.weight


def test_safetensors_with_the_tied_head_once_is_loaded(tmp_path):
    decoder = new_decoder()
    save_model(decoder, str(tmp_path / "x.safetensors"))
    assert len(load_file(tmp_path / "x.safetensors")) == len(decoder.state_dict()) - 1
    found = load_published(new_decoder(seed=1), tmp_path / "x.safetensors").state_dict()
    assert all(torch.equal(found[key], value) for key, value in decoder.state_dict().items())


def test_two_values_for_one_weight_are_refused(tmp_path):
    state = new_decoder().state_dict()
    torch.save(state | {HEAD: state[HEAD] + 1}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"two values for one weight, .*wte\.weight and gpt\.lm_head\.weight"):
        load_published(new_decoder(), tmp_path / "x.pt")


@trained
@pytest.mark.parametrize("name", ["module.", "_orig_mod.", "", "pieces", "pytorch_model.bin"])
def test_gpt2_s_folder_may_be_wrapped_too(tmp_path, name):
    folder, state = tmp_path / "gpt2", load_file(WEIGHTS / "gpt2" / "model.safetensors")
    shutil.copytree(WEIGHTS / "gpt2", folder)
    (folder / "model.safetensors").unlink()
    wanted = load_language_model(WEIGHTS / "gpt2").state_dict()
    if name == "pytorch_model.bin":
        torch.save(state, folder / name)
    elif name == "pieces":
        GPT2LMHeadModel.from_pretrained(WEIGHTS / "gpt2").save_pretrained(folder, max_shard_size="300KB")
        assert len([*folder.glob("model-*.safetensors")]) > 1
    else:
        save_file(prefixed(name, state), folder / "model.safetensors")
    model, tokenizer = gpt2.load(folder)
    assert model.state_dict().keys() == wanted.keys() and len(tokenizer) == 128
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    assert all(value.dtype == torch.float32 for value in model.parameters())


@trained
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, state: path.write_bytes(path.read_bytes()[:5000]), r"model\.safetensors is a safetensors file"),
        (lambda path, state: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
         r"model\.safetensors is a git-lfs pointer, not the file it points to \(run: git lfs pull\)"),
        (lambda path, state: save_file(state | {"transformer.wte.weight": torch.zeros(127, 96)}, path),
         r"wte\.weight must have shape \(128, 96\) as config\.json says, got \(127, 96\)"),
        (lambda path, state: path.unlink(), r"no model\.safetensors or pytorch_model\.bin at .*gpt2"),
    ],
)  # fmt: skip
def test_a_damaged_gpt2_folder_is_refused_by_name(tmp_path, damage, message):
    folder = tmp_path / "gpt2"
    shutil.copytree(WEIGHTS / "gpt2", folder)
    damage(folder / "model.safetensors", load_file(folder / "model.safetensors"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        gpt2.load(folder)


@trained
def test_stylegan2_s_folder_may_be_wrapped_too(tmp_path):
    source, folder = WEIGHTS / "stylegan2", tmp_path / "stylegan2"
    shutil.copytree(source, folder)
    state = load_file(source / "generator.safetensors")
    save_file(prefixed("module.", state), folder / "generator.safetensors")
    z = torch.zeros(1, 64)[:, : StyleGAN2Generator.load(source).latent_space.dim]
    assert torch.equal(StyleGAN2Generator.load(folder)(z), StyleGAN2Generator.load(source)(z))

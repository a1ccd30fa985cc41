"""What a StyleGAN2 file says of its networks, checked and turned into the arguments of ours.

A file's own arguments decide how big our networks are, so each has a range; one that asks for a layer we do not have is
refused by name. Arguments that do not change what a trained network computes are passed over.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from glasslib.generators.stylegan2.networks import channels_at
from glasslib.generators.stylegan2.safe_pickle import Refused

FIR = [1, 3, 3, 1]
TENSORFLOW_VERSIONS = {4: 4, 5: None}  # format of StyleGAN2 and of -ADA -> default size of a minibatch std group


# Of the synthesis: inside "synthesis_kwargs" in stylegan2-ada-pytorch, at the top in stylegan3's StyleGAN2.
SYNTHESIS = ("channel_base", "channel_max", "num_fp16_res", "conv_clamp", "fused_modconv_default", "architecture",
             "resample_filter", "use_noise", "activation", "fp16_channels_last")  # fmt: skip
STYLEGAN3_CLAMP = 256  # its classes' default; StyleGAN2-ADA's is None
STYLEGAN3 = {"magnitude_ema_beta", "conv_kernel", "use_radial_filters", "filter_size", "lrelu_upsampling",
             "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel", "output_scale"}  # fmt: skip


def is_of_stylegan3(kwargs: Any) -> bool:
    """Whether the generator's arguments are those of the StyleGAN2 configuration of stylegan3's repository."""
    return type(kwargs) is dict and any(name in kwargs for name in SYNTHESIS)


def generator_config(kwargs: Any) -> dict:
    """Turn the arguments of a PyTorch Generator into those of `GeneratorNetwork`: StyleGAN2-ADA's or stylegan3's."""
    where = "the generator"
    if type(kwargs) is dict and (only := sorted(STYLEGAN3 & {name for name in kwargs if type(name) is str})):
        raise Refused(f"it is a StyleGAN3 (the argument {only[0]} is one of its own), and only StyleGAN2 is read")
    if is_of_stylegan3(kwargs):
        synthesis = {name: kwargs[name] for name in SYNTHESIS if name in kwargs}
        kwargs = {name: value for name, value in kwargs.items() if name not in SYNTHESIS}
        kwargs["synthesis_kwargs"] = {"conv_clamp": STYLEGAN3_CLAMP} | synthesis
    config = choose(
        kwargs, where,
        kept={"z_dim": whole(1, 8192), "c_dim": whole(0, 100_000), "w_dim": whole(1, 8192), "img_resolution": size,
              "img_channels": whole(3, 3)},
        nested=("mapping_kwargs", "synthesis_kwargs"),
    )  # fmt: skip
    _complete(config, where, ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"))
    config["mapping_kwargs"] = choose(
        kwargs.get("mapping_kwargs", {}), "the generator's mapping",
        kept={"num_layers": whole(1, 64), "lr_multiplier": number},
        fixed={"embed_features": (None, config["w_dim"]), "layer_features": (None, config["w_dim"]),
               "activation": ("lrelu",)},
        ignored=("w_avg_beta",),
    )  # fmt: skip
    config["synthesis_kwargs"] = choose(
        kwargs.get("synthesis_kwargs", {}), "the generator's synthesis",
        kept={"channel_base": whole(1, 2**20), "channel_max": whole(1, 8192), "conv_clamp": number_or_none},
        fixed={"architecture": ("skip",), "resample_filter": (FIR,), "use_noise": (True,), "activation": ("lrelu",)},
        ignored=("num_fp16_res", "fp16_channels_last", "fused_modconv_default"),
    )  # fmt: skip
    return config


def discriminator_config(kwargs: Any, *, of_stylegan3: bool = False) -> dict:
    """Turn the arguments of a PyTorch Discriminator into those of `Discriminator`.

    Its arguments are the same in both repositories and only a default differs, so the generator beside it tells which.
    """
    where = "the discriminator"
    if of_stylegan3 and type(kwargs) is dict:
        kwargs = {"conv_clamp": STYLEGAN3_CLAMP} | kwargs
    config = choose(
        kwargs, where,
        kept={"c_dim": whole(0, 100_000), "img_resolution": size, "img_channels": whole(3, 3),
              "channel_base": whole(1, 2**20), "channel_max": whole(1, 8192), "conv_clamp": number_or_none},
        fixed={"architecture": ("resnet",)}, ignored=("num_fp16_res", "cmap_dim"),
        nested=("block_kwargs", "mapping_kwargs", "epilogue_kwargs"),
    )  # fmt: skip
    _complete(config, where, ("c_dim", "img_resolution", "img_channels"))
    widths = {"channel_base": 32768, "channel_max": 512} | {k: config[k] for k in config if k.startswith("channel_")}
    widest = (None, channels_at(4, **widths))
    choose({"cmap_dim": kwargs.get("cmap_dim")}, where, fixed={"cmap_dim": widest})
    choose(
        kwargs.get("block_kwargs", {}), "the discriminator's blocks",
        fixed={"resample_filter": (FIR,), "activation": ("lrelu",)}, ignored=("freeze_layers", "fp16_channels_last"),
    )  # fmt: skip
    mapping = choose(
        kwargs.get("mapping_kwargs", {}), "the discriminator's mapping",
        kept={"num_layers": whole(0, 64), "lr_multiplier": number},
        fixed={"embed_features": widest, "layer_features": widest, "activation": ("lrelu",)},
    )  # fmt: skip
    epilogue = choose(
        kwargs.get("epilogue_kwargs", {}), "the discriminator's last block",
        kept={"mbstd_group_size": whole_or_none(1, 2**16), "mbstd_num_channels": whole(0, 512)},
        fixed={"activation": ("lrelu",)},
    )  # fmt: skip
    return config | {"mapping_kwargs": mapping, "epilogue_kwargs": epilogue}


def tensorflow_generator_config(kwargs: Any) -> dict:
    """Turn the `static_kwargs` of a TensorFlow generator into the arguments of `GeneratorNetwork`."""
    found = choose(
        kwargs, "the generator",
        kept={"latent_size": whole(1, 8192), "dlatent_size": whole(1, 8192), "resolution": size,
              "mapping_layers": whole(1, 64), "mapping_lrmul": number, "fmap_base": whole(1, 2**19),
              "fmap_max": whole(1, 8192), "conv_clamp": number_or_none},
        fixed={"label_size": (0,), "num_channels": (3,), "mapping_nonlinearity": ("lrelu",), "nonlinearity": ("lrelu",),
               "architecture": ("skip",), "resample_kernel": (FIR, None), "use_noise": (True,), "fmap_decay": (1.0,),
               "fmap_min": (1,), "normalize_latents": (True,), "synthesis_func": ("G_synthesis_stylegan2",),
               "mapping_func": ("G_mapping",), "fused_modconv": (True, False)},
        ignored=("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "dtype",
                 "style_mixing_prob", "dlatent_avg_beta", "w_avg_beta", "structure", "num_fp16_res", "randomize_noise",
                 "mapping_fmaps"),
    )  # fmt: skip
    w_dim = found.get("dlatent_size", 512)
    choose({"mapping_fmaps": kwargs.get("mapping_fmaps")}, "the generator", fixed={"mapping_fmaps": (None, w_dim)})
    return {
        "z_dim": found.get("latent_size", 512), "c_dim": 0, "w_dim": w_dim,
        "img_resolution": found.get("resolution", 1024), "img_channels": 3,
        "mapping_kwargs": {
            "num_layers": found.get("mapping_layers", 8), "lr_multiplier": found.get("mapping_lrmul", 0.01)
        },
        "synthesis_kwargs": _tensorflow_widths(found),
    }  # fmt: skip


def tensorflow_discriminator_config(kwargs: Any, *, version: int) -> dict:
    """Turn the `static_kwargs` of a TensorFlow discriminator into the arguments of `Discriminator`."""
    found = choose(
        kwargs, "the discriminator",
        kept={"resolution": size, "fmap_base": whole(1, 2**19), "fmap_max": whole(1, 8192),
              "conv_clamp": number_or_none, "mbstd_group_size": whole_or_none(1, 2**16),
              "mbstd_num_features": whole(1, 512)},
        fixed={"label_size": (0,), "num_channels": (3,), "architecture": ("resnet",), "nonlinearity": ("lrelu",),
               "resample_kernel": (FIR, None), "fmap_decay": (1.0,), "fmap_min": (1,)},
        # The mapping only reads labels, and there are none.
        ignored=("structure", "dtype", "num_fp16_res", "freeze_layers", "mapping_layers", "mapping_fmaps",
                 "mapping_lrmul"),
    )  # fmt: skip
    return {
        "c_dim": 0, "img_resolution": found.get("resolution", 1024), "img_channels": 3, **_tensorflow_widths(found),
        "epilogue_kwargs": {
            "mbstd_group_size": found.get("mbstd_group_size", TENSORFLOW_VERSIONS[version]),
            "mbstd_num_channels": found.get("mbstd_num_features", 1),
        },
    }  # fmt: skip


def _tensorflow_widths(found: dict) -> dict:
    # TensorFlow counts channels from the 2x2 stage, PyTorch from 1x1.
    widths = {"channel_base": 2 * found.get("fmap_base", 16384), "channel_max": found.get("fmap_max", 512)}
    return widths | {"conv_clamp": found.get("conv_clamp")}


def choose(
    kwargs: Any, where: str, *, kept: Mapping[str, Callable] = {}, fixed: Mapping[str, Collection] = {},
    ignored: Collection[str] = (), nested: Collection[str] = (),
) -> dict:  # fmt: skip
    """Return the `kept` arguments after their checks.

    Args:
        kwargs: what the file holds.
        where: whose arguments, for messages.
        kept: name -> function of (value, what), which returns the value or raises.
        fixed: name -> the values that our networks can compute.
        ignored: names that change nothing.
        nested: names that the caller reads itself.

    Raises:
        Refused: not a dict, an argument of another name, or a value out of range.
    """
    if type(kwargs) is not dict:
        raise Refused(f"the arguments of {where} must be a dict, got {short(kwargs)}")
    for name, value in kwargs.items():
        if name in fixed and not any(value == allowed for allowed in fixed[name]):
            wanted = " or ".join(map(str, fixed[name]))
            raise Refused(f"{where} is of another architecture: {name} must be {wanted}, got {short(value)}")
        if name not in {*kept, *fixed, *ignored, *nested}:
            raise Refused(
                f"{where} is of another architecture: it has the argument {name[:60]!r}, which we do not know"
            )
    return {name: check(kwargs[name], f"{name} of {where}") for name, check in kept.items() if name in kwargs}


def short(value: Any) -> str:
    """Show a value in a message: a plain one as it is, others by their type only (their repr may never end)."""
    return repr(value)[:60] if type(value) in (bool, int, float, str, type(None)) else f"a {type(value).__name__}"


def whole(lowest: int, highest: int) -> Callable[[Any, str], int]:
    """Return a check for a whole number in [lowest, highest]."""

    def check(value: Any, what: str) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise Refused(f"{what} must be a whole number in [{lowest}, {highest}], got {short(value)}")
        return value

    return check


def whole_or_none(lowest: int, highest: int) -> Callable[[Any, str], int | None]:
    """Return a check for None or a whole number in [lowest, highest]."""
    return lambda value, what: None if value is None else whole(lowest, highest)(value, what)


def number(value: Any, what: str) -> float:
    """Return a number above 0 and below a million."""
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise Refused(f"{what} must be a number above 0, got {short(value)}")
    return value


def number_or_none(value: Any, what: str) -> float | None:
    """Return None, or a number above 0."""
    return None if value is None else number(value, what)


def size(value: Any, what: str) -> int:
    """Return a power of two from 8 to 2048."""
    value = whole(8, 2048)(value, what)
    if value & (value - 1):
        raise Refused(f"{what} must be a power of two, got {value}")
    return value


def _complete(config: dict, where: str, names: Collection[str]) -> None:
    missing = [name for name in names if name not in config]
    if missing:
        raise Refused(f"{where} must say its {', '.join(missing)}; the file does not")

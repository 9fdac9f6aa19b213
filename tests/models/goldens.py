"""Golden activations: every backbone against an independent PyTorch implementation.

  python tests/models/goldens.py write [NAME ...]   in an interpreter with PyTorch
  python tests/models/goldens.py check [NAME ...]   in this project's own

`write` needs torch, and timm 1.0.31 for the ResNets and EfficientNet, torchvision 0.29
for DenseNet (torch 2.15 for these), transformers 5.23 for DINO (torch 2.13). It builds
the reference network, fills it with `seeded` weights, runs it on `seeded` images at 224
and at a non-square size, and stores of every tap its shape, its largest magnitude and
512 values at seeded places, with the names and shapes of the weights: everything else
is rebuilt from the seed. `check` rebuilds the weights by those names, loads them as
any file is loaded, and prints, of the network as it is and folded, the largest
difference of a tap relative to its largest magnitude. The bound is 1e-4, in float32.
Tests check the tiny networks, which are of the same code; `check` takes minutes.
"""

import itertools
import json
import pathlib
import sys
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "fixtures" / "goldens"
SAMPLES = 512
TOLERANCE = 1e-4
# Backbones, and small ones of the same code that a test suite has time for.
SIZES = {"": ((224, 224), (192, 256)), "tiny": ((64, 64), (96, 64))}


def seeded(name: str, shape) -> np.ndarray:
    """float32 values that depend on nothing but name and shape.

    Kernels are normal and keep the signal's magnitude; scales and variances are
    uniform in [0.5, 1.5]; everything else is normal of deviation 0.1.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name == "image":
        return random.randn(*shape).astype(np.float32)
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) in (2, 4):
        return (random.randn(*shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return np.asarray(0.1 * random.randn(*shape), np.float32)


def sample_places(tap: str, shape) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(tap.encode()))
    return random.randint(0, np.prod(shape), SAMPLES)


def seeded_state(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {name: seeded(name, shape) for name, shape in shapes.items()}


# --- the references, in PyTorch ---


def _timm(name, **options):
    import timm

    return timm.create_model(name, pretrained=False, **options)


def _hooked(model, images, places):
    """Logits, and the result of the submodule `places[tap]` of every tap, NHWC."""
    taps, hooks = {}, []
    for tap, place in places.items():

        def keep(module, inputs, output, tap=tap):
            taps[tap] = output.detach().clone()

        hooks.append(model.get_submodule(place).register_forward_hook(keep))
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return logits, {tap: value.permute(0, 2, 3, 1) for tap, value in taps.items()}


def _layers(stem):
    return {"stem": stem} | {f"layer{i}": f"layer{i}" for i in range(1, 5)}


def _resnet(name, **options):
    model = _timm(name, **options)
    return model, lambda x: _hooked(model, x, _layers("act1") | {"maxpool": "maxpool"})


def _resnet_class(**options):
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    block = BasicBlock if options.pop("basic", False) else Bottleneck
    model = ResNet(block, **options)
    return model, lambda x: _hooked(model, x, _layers("act1") | {"maxpool": "maxpool"})


def _densenet(**options):
    from torchvision.models import DenseNet

    model = DenseNet(growth_rate=32, num_init_features=64, **options)
    nodes = ("norm5", "pool0", "transition1", "transition2", "transition3")
    places = {f"features.{node}": f"features.{node}" for node in nodes}
    places |= {f"layer{i}": f"features.denseblock{i}" for i in range(1, 5)}
    places["stem"] = "features.relu0"
    return model, lambda x: _hooked(model, x, places)


def _efficientnet():
    model = _timm("tf_efficientnet_lite0")
    places = {"stem": "bn1"} | {f"blocks.{i}": f"blocks.{i}" for i in range(7)}
    return model, lambda x: _hooked(model, x, places)


def _transformers(kind, depth=12, **options):
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=depth, attn_implementation="eager", **options
    )
    model = getattr(transformers, f"{kind}Model")(config)
    registers = getattr(config, "num_register_tokens", 0)

    def run(images):
        grid = [n // config.patch_size for n in images.shape[2:]]
        out = model(images, output_hidden_states=True)

        def patches(tokens):
            return tokens[:, 1 + registers :].reshape(len(images), *grid, -1)

        # DINOv3's last hidden state may be given after the norm: hook the blocks.
        states = out.hidden_states
        taps = {f"blocks.{i}": patches(s) for i, s in enumerate(states[1:depth])}
        taps["norm"] = patches(out.last_hidden_state)
        return out.last_hidden_state[:, 0], taps

    return model, run


def _dinov2(width, depth=12, registers=0):
    options = dict(hidden_size=width, num_attention_heads=width // 64, image_size=518,
                   patch_size=14, depth=depth)  # fmt: skip
    if registers:
        return _transformers(
            "Dinov2WithRegisters", num_register_tokens=registers, **options
        )
    return _transformers("Dinov2", **options)


def _dinov3(width, depth=12):
    return _transformers(
        "DINOv3ViT", hidden_size=width, num_attention_heads=width // 64,
        intermediate_size=4 * width, patch_size=16, image_size=224, depth=depth,
        num_register_tokens=4,
    )  # fmt: skip


REFERENCES = {
    "efficientnet_lite0": _efficientnet,
    "resnet18": lambda: _resnet("resnet18"),
    "resnet50": lambda: _resnet("resnet50"),
    "wide_resnet50_2": lambda: _resnet("wide_resnet50_2"),
    "wide_resnet101_2": lambda: _resnet("wide_resnet101_2"),
    "resnext101_32x8d": lambda: _resnet("resnext101_32x8d"),
    "densenet201": lambda: _densenet(block_config=(6, 12, 48, 32)),
    "dinov2_vits14": lambda: _dinov2(384),
    "dinov2_vitb14": lambda: _dinov2(768),
    "dinov2_vits14_reg": lambda: _dinov2(384, registers=4),
    "dinov2_vitb14_reg": lambda: _dinov2(768, registers=4),
    "dinov3_vits16": lambda: _dinov3(384),
    "dinov3_vitb16": lambda: _dinov3(768),
    "tiny_basic": lambda: _resnet_class(basic=True, layers=(1, 1, 1, 1)),
    "tiny_resnext": lambda: _resnet_class(
        layers=(1, 1, 1, 2), cardinality=32, base_width=8
    ),
    "tiny_densenet": lambda: _densenet(block_config=(2, 1, 2, 1)),
    "tiny_dinov2": lambda: _dinov2(128, depth=2),
    "tiny_dinov2_reg": lambda: _dinov2(128, depth=2, registers=4),
    "tiny_dinov3": lambda: _dinov3(128, depth=2),
}


def sizes(name: str):
    """Image sizes, to the nearest multiple of the patch where there are patches."""
    patch = 14 if "dinov2" in name else 16
    chosen = SIZES["tiny" if name.startswith("tiny") else ""]
    return [tuple(round(n / patch) * patch for n in size) for size in chosen]


def write(name: str) -> None:
    import torch

    torch.manual_seed(0)
    model, run = REFERENCES[name]()
    model.eval()
    names = {key: list(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.tensor(value) for key, value in seeded_state(names).items()}
    model.load_state_dict(state)
    arrays = {"shapes": np.array(json.dumps(names))}
    for size in sizes(name):
        images = torch.tensor(seeded("image", (1, *size, 3))).permute(0, 3, 1, 2)
        with torch.no_grad():
            logits, taps = run(images)
        for tap, value in (taps | {"logits": logits}).items():
            value = value.numpy()
            key = f"{size[0]}x{size[1]}/{tap}"
            arrays[f"{key}/shape"] = np.array(value.shape)
            arrays[f"{key}/max"] = np.abs(value).max()
            arrays[f"{key}/sample"] = value.ravel()[sample_places(tap, value.shape)]
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    print(f"{name}: {len(arrays) // 3} taps", flush=True)


# --- this library ---


def module(name: str):
    """(module, spec) of a backbone, or of a tiny one."""
    import dataclasses

    from jaxad import models
    from jaxad.models import densenet, resnet, vit

    if not name.startswith("tiny"):
        spec = models.spec(name)
        return spec.module(), spec
    like, made = {
        "tiny_basic": (
            "resnet18",
            lambda: resnet.ResNet((1, 1, 1, 1), bottleneck=False),
        ),
        "tiny_resnext": (
            "resnext101_32x8d",
            lambda: resnet.ResNet((1, 1, 1, 2), groups=32, group_width=8),
        ),
        "tiny_densenet": ("densenet201", lambda: densenet.DenseNet((2, 1, 2, 1))),
        "tiny_dinov2": ("dinov2_vits14", lambda: vit.VisionTransformer(128, 2, 2)),
        "tiny_dinov2_reg": (
            "dinov2_vits14_reg",
            lambda: vit.VisionTransformer(128, 2, 2, registers=4, antialias=True),
        ),
        "tiny_dinov3": (
            "dinov3_vits16",
            lambda: vit.VisionTransformer(
                128, 2, 2, patch=16, registers=4, positions=0, epsilon=1e-5
            ),
        ),
    }[name]
    return made(), dataclasses.replace(models.spec(like), module=made)


def shapes(name: str) -> dict[str, list[int]]:
    """Shapes of the reference's weights by its names."""
    with np.load(FOLDER / f"{name}.npz") as golden:
        return json.loads(str(golden["shapes"]))


def assign(state: dict[str, np.ndarray], name: str) -> dict:
    """Variables from weights by any library's names, as `models.load` makes them."""
    import jax
    import jax.numpy as jnp

    from jaxad.models import pretrained

    network, spec = module(name)
    images = jnp.zeros((1, *sizes(name)[0], 3))
    wanted = jax.eval_shape(network.init, jax.random.key(0), images)
    return pretrained.assign(
        f"{name}.npz", spec.prepare(state), wanted, spec.rename, spec.ignore
    )


def load(name: str):
    """(module, variables) with the seeded weights of a golden file."""
    return module(name)[0], assign(seeded_state(shapes(name)), name)


def differences(name: str, network, variables, size):
    """{tap: largest difference over the largest magnitude} at one size."""
    import jax

    logits, taps = jax.jit(network.apply)(variables, seeded("image", (1, *size, 3)))
    taps = {tap: np.asarray(value) for tap, value in taps.items()}
    taps["logits"] = np.asarray(logits)
    found = {}
    with np.load(FOLDER / f"{name}.npz") as golden:
        prefix = f"{size[0]}x{size[1]}/"
        for key in golden.files:
            if not key.startswith(prefix) or not key.endswith("/sample"):
                continue
            stem = key.removesuffix("/sample")
            tap = stem.removeprefix(prefix)
            assert taps[tap].shape == tuple(golden[f"{stem}/shape"]), (name, tap)
            values = taps[tap].ravel()[sample_places(tap, taps[tap].shape)]
            found[tap] = np.abs(values - golden[key]).max() / golden[f"{stem}/max"]
    assert found
    return found


def check(name: str) -> bool:
    from jaxad import models

    network, variables = load(name)
    worst = 0.0
    forms = {"": variables, " folded": models.fold(network, variables)}
    for size, form in itertools.product(sizes(name), forms):
        found = differences(name, network, forms[form], size)
        tap = max(found, key=found.get)
        worst = max(worst, found[tap])
        print(
            f"{name:20s} {size[0]}x{size[1]}{form}: {len(found)} taps, largest "
            f"relative difference {found[tap]:.1e} ({tap})",
            flush=True,
        )
    return worst < TOLERANCE


if __name__ == "__main__":
    job, *chosen = sys.argv[1:]
    if job == "write":
        for name in chosen or REFERENCES:
            write(name)
    else:
        sys.exit(not all([check(name) for name in chosen or REFERENCES]))
